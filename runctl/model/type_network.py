"""The network of an instance type, as far as it matters to instances that train together."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TypeNetwork:
    """The number of its network cards, and what EC2 offers for it.

    `has_efa` says whether an interface can be an Elastic Fabric Adapter, and `can_cluster` whether
    instances can be in a cluster placement group, which burstable types cannot.
    """

    cards: int = 1
    has_efa: bool = False
    can_cluster: bool = False

    @property
    def uses_efa(self) -> bool:
        """Whether the nodes of a gang get an EFA: with several cards, each would need its own."""
        return self.has_efa and self.cards == 1
