"""Scheduled events of an instance, as the metadata service and DescribeInstanceStatus show them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from runctl.model.ec2_events import read_instant

# These end the instance; after the others it comes back, and so does the agent on it.
ENDING = frozenset({"instance-stop", "instance-retirement"})
OVER = frozenset({"completed", "canceled"})


@dataclass(frozen=True, kw_only=True)
class ScheduledEvent:
    """One event that EC2 has scheduled for an instance and neither completed nor canceled.

    `not_before` is its earliest start; None if that cannot be read.
    """

    event_id: str
    code: str
    not_before: datetime | None

    @property
    def ends_the_instance(self) -> bool:
        """Whether the instance is lost to its attempt."""
        return self.code in ENDING


def read_scheduled_events(text: str | None) -> tuple[ScheduledEvent, ...]:
    """Read `events/maintenance/scheduled` of the metadata; what cannot be read is left out."""
    try:
        found = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    events = (
        (_read(entry) for entry in found if isinstance(entry, Mapping)) if _is_list(found) else ()
    )
    return tuple(event for event in events if event is not None)


def _is_list(found: Any) -> bool:
    return isinstance(found, list)


def _read(event: Mapping[str, Any]) -> ScheduledEvent | None:
    code = event.get("Code")
    if not isinstance(code, str) or not code or event.get("State") in OVER:
        return None
    not_before = event.get("NotBefore")
    return ScheduledEvent(
        event_id=str(event.get("EventId") or f"{code} {not_before}"),
        code=code,
        not_before=_read_date(not_before),
    )


def _read_date(text: Any) -> datetime | None:
    """Read `21 Jan 2019 09:00:43 GMT`, as the metadata have it, or an instant of JSON."""
    if not isinstance(text, str):
        return None
    try:
        instant = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return read_instant(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)
