"""What an attempt does about the events that EC2 has scheduled for its instance."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from runctl.model.maintenance import ScheduledEvent

# The next machine boots, prepares and restores in that time; a last save is much shorter.
LEAVE_BEFORE = timedelta(minutes=15)
# The last moment for a checkpoint before a reboot.
SAVE_BEFORE = timedelta(minutes=2)
# An event that is due already may come at any moment: nearly what a spot notice leaves.
ASSUMED_TIME_LEFT = timedelta(seconds=105)
# The sweep comes every 15 minutes, so it has several chances before the event.
NEAR = timedelta(hours=1)


class Response(Enum):
    """What an attempt does about a scheduled event."""

    NOTHING = "nothing"
    SAVE = "save"
    LEAVE = "leave"  # save, report and shut down before EC2 ends the instance


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The response to one event.

    `stage` is what a checkpoint is asked for: the event became known, or is near. `deadline` is
    when an instance that is left may be gone.
    """

    response: Response
    stage: str = ""
    deadline: datetime | None = None


def respond(event: ScheduledEvent, asked: Collection[str], *, now: datetime) -> Answer:
    """Return what to do about an event; `asked` has the stages that a checkpoint was asked for.

    An instance that will end is left a quarter of an hour before, so that its successor is at work
    by then. An event whose start cannot be read may be weeks away: it is saved for once.
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
    """Whether an event begins so soon that a checkpoint should be at hand."""
    return event.not_before is not None and event.not_before - now <= NEAR


def describe(events: Iterable[ScheduledEvent]) -> str:
    """Say in one sentence what EC2 has scheduled; an empty text for nothing."""
    known = list(events)
    if not known:
        return ""
    told = ", ".join(
        event.code
        + ("" if event.not_before is None else f" not before {event.not_before:%Y-%m-%d %H:%M} UTC")
        for event in known
    )
    leaves = any(event.ends_the_instance for event in known)
    follows = "the run moves to another one before that" if leaves else "the run saves before that"
    return f"EC2 has scheduled maintenance of the instance: {told}; {follows}"
