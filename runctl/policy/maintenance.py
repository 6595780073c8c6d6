"""The responses of an attempt to the events that EC2 has scheduled for its instance."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from runctl.model.maintenance import ScheduledEvent

# The next machine boots, prepares and restores in that time; a last save is much shorter.
LEAVE_BEFORE = timedelta(minutes=15)
# The last moment for a checkpoint before a reboot.
SAVE_BEFORE = timedelta(minutes=2)
# An event that is already due may happen at any moment: nearly what a spot notice leaves.
ASSUMED_TIME_LEFT = timedelta(seconds=105)
# Reconciliation runs every 15 minutes, so it has several chances before the event.
NEAR = timedelta(hours=1)


class Response(Enum):
    """The reaction of an attempt to a scheduled event."""

    NOTHING = "nothing"
    SAVE = "save"
    LEAVE = "leave"  # save, report and shut down before EC2 ends the instance


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The response to an event.

    `stage` is why a checkpoint is requested: the event became known, or is near. `deadline` is when
    an instance that the run leaves may be gone.
    """

    response: Response
    stage: str = ""
    deadline: datetime | None = None


def respond(event: ScheduledEvent, asked: Collection[str], *, now: datetime) -> Answer:
    """Return the response to an event; `asked` has the stages that already requested a checkpoint.

    The run leaves an instance that will end a quarter of an hour before, so that its successor is
    ready by then. An event whose start cannot be read may be weeks away: it causes one save.
    """
    left = None if event.not_before is None else event.not_before - now
    if left is not None and event.ends_the_instance and left <= LEAVE_BEFORE:
        is_due = left <= timedelta(0)
        deadline = now + ASSUMED_TIME_LEFT if is_due else event.not_before
        return Answer(response=Response.LEAVE, deadline=deadline)
    stage = "near" if left is not None and left <= SAVE_BEFORE else "known"
    if stage in asked:
        return Answer(response=Response.NOTHING)
    return Answer(response=Response.SAVE, stage=stage)


def is_near(event: ScheduledEvent, *, now: datetime) -> bool:
    """Return whether an event begins so soon that there should be a recent checkpoint."""
    return event.not_before is not None and event.not_before - now <= NEAR


def describe(events: Iterable[ScheduledEvent]) -> str:
    """Describe in one sentence what EC2 has scheduled; empty for nothing."""
    known = list(events)
    if not known:
        return ""
    listed = ", ".join(
        event.code
        + ("" if event.not_before is None else f" not before {event.not_before:%Y-%m-%d %H:%M} UTC")
        for event in known
    )
    leaves = any(event.ends_the_instance for event in known)
    plan = (
        "the run will move to another one before that"
        if leaves
        else "the run will save before that"
    )
    return f"EC2 has scheduled maintenance of the instance: {listed}; {plan}"
