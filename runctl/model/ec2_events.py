"""EC2's events that announce the loss of an instance, read from EventBridge's envelope.

A rule matches every instance of the account, and an envelope may contain anything. It is read
leniently, and an unreadable value is a result, not an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any

INSTANCE_ID = re.compile(r"i-[0-9A-Za-z-]{1,60}")


class EventKind(str, Enum):
    """The kinds of events about an instance."""

    INTERRUPTION = "interruption"  # EC2 takes a spot instance; the metadata show it, too
    RESERVATION = "reservation"  # EC2 takes it for its capacity reservation; only the event says so
    REBALANCE = "rebalance"  # EC2 may take it; there is no deadline


KINDS = {
    "EC2 Spot Instance Interruption Warning": EventKind.INTERRUPTION,
    # For interruptible reservations, and at the end of a Capacity Block.
    "EC2 Capacity Reservation Instance Interruption Warning": EventKind.RESERVATION,
    # The name in earlier editions of the EC2 user guide.
    "EC2 Interruptible Capacity Reservation Instance Interruption Warning": EventKind.RESERVATION,
    "EC2 Instance Rebalance Recommendation": EventKind.REBALANCE,
}


@dataclass(frozen=True, kw_only=True)
class InstanceEvent:
    """One event about one instance.

    `action` is what EC2 will do: terminate, stop or hibernate, or a word that is not known yet. The
    machine is lost to the attempt with each of them. `deadline` is when, if the event says so.
    """

    kind: EventKind
    instance_id: str
    action: str = ""
    deadline: datetime | None = None


def read_event(event: Mapping[str, Any]) -> InstanceEvent | None:
    """Read an event; None for another kind of event, and for one without an instance."""
    detail = event.get("detail")
    kind = event.get("detail-type")
    if not isinstance(detail, Mapping) or not isinstance(kind, str) or kind not in KINDS:
        return None
    instance_id = read_instance_id(detail)
    if not instance_id:
        return None
    action = detail.get("instance-action")
    return InstanceEvent(
        kind=KINDS[kind],
        instance_id=instance_id,
        action=action if isinstance(action, str) else "",
        deadline=read_instant(detail.get("instance-termination-time")),
    )


def read_instance_id(detail: Mapping[str, Any]) -> str:
    """Return the instance that an event's detail is about, or an empty text."""
    found = detail.get("instance-id")
    return found if isinstance(found, str) and INSTANCE_ID.fullmatch(found) else ""


def read_instant(text: Any) -> datetime | None:
    """Read an instant as AWS writes it in JSON, or None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)
