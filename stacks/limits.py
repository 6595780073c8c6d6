"""The limits of a deployment: which instances its runs may launch, and how many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stacks.errors import BadContextError

_PATTERN = re.compile(r"[a-z0-9*?-]+\.[a-z0-9*?-]+")
MAX_INSTANCES = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Instance types or patterns of them, empty for all; and a number, 0 for any."""

    instance_types: tuple[str, ...] = ()
    max_instances: int = 0


def read_limits(instance_types: Sequence[str], max_instances: str) -> Limits:
    """Check the settings; raises BadContextError with the key and the rule."""
    for pattern in instance_types:
        if not _PATTERN.fullmatch(pattern):
            raise BadContextError(
                f"context allowed_instance_types: {pattern!r} is not an instance type or a "
                "pattern of some (e.g. g5.xlarge, g5.*)"
            )
    number = max_instances or "0"
    if not number.isdecimal() or int(number) > MAX_INSTANCES:
        raise BadContextError(
            f"context max_instances: {number!r} is not a number from 1 to {MAX_INSTANCES}; remove "
            "it for any number"
        )
    return Limits(instance_types=tuple(instance_types), max_instances=int(number))
