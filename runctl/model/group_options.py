"""The field of a run request that names the group of the run."""

from dataclasses import dataclass
from typing import Any

from runctl.model.identity import RUN_ID, RUN_ID_RULE
from runctl.model.request_fields import text


def check_group(value: Any) -> str | None:
    """Check the name of a group."""
    if value == "" or (isinstance(value, str) and RUN_ID.fullmatch(value)):
        return None
    return f"{value!r} is not a valid name of a group; use {RUN_ID_RULE}"


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """Which runs it belongs to."""

    group: str = text(
        "The group of runs that it belongs to, such as a sweep, whose state machine sets this. "
        "An instance that is done with one run of a group may go on with another one.",
        check=check_group,
    )
