"""The limits that the owner of a deployment sets for all of its runs."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DeploymentLimits:
    """The instance types that runs may use, and how many instances there may be at once.

    `instance_types` are names or patterns such as `g5.*`; empty for any. `max_instances` is 0 for
    any number.
    """

    instance_types: tuple[str, ...] = ()
    max_instances: int = 0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "DeploymentLimits":
        """Read the JSON form; a deployment of an earlier version has none."""
        return cls(
            instance_types=tuple(map(str, document.get("instance_types", ()))),
            max_instances=int(document.get("max_instances", 0)),
        )

    def allowed(self, instance_types: Iterable[str]) -> tuple[str, ...]:
        """Return those of the types that runs may use."""
        return tuple(name for name in instance_types if self._allows(name))

    def _allows(self, instance_type: str) -> bool:
        patterns = self.instance_types
        return not patterns or any(fnmatch.fnmatchcase(instance_type, text) for text in patterns)
