"""The view of the other nodes that an agent of a gang acts on: a port."""

from typing import Protocol

from runctl.model.run import Attempt
from runctl.policy.gang_facts import Verdict


class GangView(Protocol):
    """The other nodes, as the ledger showed them last. Every change wakes the mailbox.

    `interval` is the time between two looks, in seconds.
    """

    interval: float

    def start(self) -> None:
        """Begin to look."""
        ...

    def stop(self) -> None:
        """Stop looking."""
        ...

    @property
    def attempt(self) -> Attempt | None:
        """The attempt with all its nodes, None before the first look."""
        ...

    @property
    def verdict(self) -> Verdict | None:
        """What is wrong with the gang, or that it has completed; None while it is at work."""
        ...

    @property
    def silent(self) -> frozenset[int]:
        """The ranks whose agents do not answer, or whose machines are gone."""
        ...

    def is_lead(self) -> bool:
        """Whether this node has the lowest rank of those whose agents report."""
        ...
