"""Decisions on what a reconciliation may remove: runs, machines and fleets. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from runctl.model.leftovers import InstantFleet
from runctl.model.machine import Machine
from runctl.model.run import Attempt, Run
from runctl.policy.billing import may_terminate
from runctl.policy.gang import REPAIR_FOR, is_of_gang, share_losses

# A drain takes 90 s, followed by an upload, a report and a shutdown.
GRACE = timedelta(minutes=5)
# An agent that still reports its drain is uploading much; the instance's own timer waits as long.
MAX_DRAIN = timedelta(minutes=30)
FRESH = timedelta(minutes=2)
# Anything younger may be on its way into the ledger, or not yet visible everywhere in AWS.
YOUNG = timedelta(minutes=15)
# By then, EC2 knows everywhere what a fleet launched, and nothing replays its request any more.
SETTLED = timedelta(hours=1)
# An end that could not be announced for this long is not news; something else is broken.
STALE = timedelta(days=7)

GOING_ON = frozenset({"RUNNING", "PENDING_REDRIVE"})


class Unsettled(Protocol):
    """A run or a group, as far as its end is concerned."""

    @property
    def started_at(self) -> datetime:
        """When it began."""
        ...

    @property
    def ended_at(self) -> datetime | None:
        """When it ended."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether its end is complete."""
        ...


def is_abandoned(run: Unsettled, execution_status: str, *, now: datetime) -> bool:
    """Return whether nothing will end the run, or complete its end, any more.

    `execution_status` is empty for an unknown execution. DescribeExecution is eventually
    consistent, so only a young execution may be unknown to it.
    """
    if execution_status in GOING_ON or run.is_settled:
        return False
    if run.ended_at is not None:
        return GRACE <= now - run.ended_at < STALE
    return bool(execution_status) or now - run.started_at >= YOUNG


def is_left_over(
    machine: Machine,
    run: Run | None,
    attempts: Sequence[Attempt],
    *,
    now: datetime,
    waits_until: datetime | None = None,
) -> bool:
    """Return whether the machine is unwanted, nothing else will terminate it, and we may.

    `run` and `attempts` are what the ledger holds of the run that its tag names, or that uses it as
    an existing instance. A machine that its owner keeps is wanted until then, and after that by its
    run. A warm instance `waits_until` then for a further run of its group.
    """
    if machine.state not in {"pending", "running"} or machine.launched_at is None:
        return False
    if machine.kept_until is not None and now < machine.kept_until:
        return False
    if run is not None and run.request.gang.is_gang:
        attempts = share_losses(attempts)
    attempt = _attempt_of(machine, attempts)
    if run is None:
        return now - machine.launched_at >= YOUNG
    since = waits_until or _unwanted_since(run, machine, attempt, attempts)
    if since is None and _is_stray(machine, attempt):
        since = machine.launched_at
    if since is None or now - since < _allowed_time(attempt, machine.instance_id, now=now):
        return False
    return may_terminate(
        launched_at=machine.launched_at,
        noticed_at=None if attempt is None else attempt.noticed_at_on(machine.instance_id),
        now=now,
    )


def is_spent(
    fleet: InstantFleet, states: Mapping[str, str], attempts: Sequence[Attempt], *, now: datetime
) -> bool:
    """Return whether a fleet has no instances left, so that deleting it terminates nothing.

    `states` are the states of those of its instances that EC2 still knows; `attempts` are those of
    its run. An instance that EC2 is shutting down counts as alive: it may be in the first hour, in
    which a reclaim is free. One that EC2 does not know counts as gone unless an attempt in the
    ledger uses it, or ended so recently that the next one of a gang may keep it: two views have to
    agree, since either may lag behind.
    """
    if fleet.is_deleted or fleet.created_at is None or now - fleet.created_at < SETTLED:
        return False
    if any(states.get(known, "terminated") != "terminated" for known in fleet.instance_ids):
        return False
    at_work = {
        instance_id
        for attempt in attempts
        if attempt.ended is None or _may_wait(attempt, now=now)
        for instance_id in attempt.instance_ids
    }
    return not at_work & (set(fleet.instance_ids) - set(states))


def _may_wait(attempt: Attempt, *, now: datetime) -> bool:
    """Whether the machines of an ended attempt of a gang may wait for the next one."""
    if attempt.ended_at is None or not is_of_gang(attempt):
        return False
    return now - attempt.ended_at < REPAIR_FOR + GRACE


def _attempt_of(machine: Machine, attempts: Sequence[Attempt]) -> Attempt | None:
    # An existing instance has no tag of the run, and a warm one those of its first attempt.
    recorded = [attempt for attempt in attempts if attempt.node_of(machine.instance_id)]
    if recorded:
        return recorded[-1]
    return next((attempt for attempt in attempts if attempt.number == machine.attempt), None)


def _is_stray(machine: Machine, attempt: Attempt | None) -> bool:
    """Return whether the attempt of its tag has other machines than this one on record."""
    return (
        attempt is not None
        and attempt.was_launched
        and attempt.node_of(machine.instance_id) is None
    )


def _unwanted_since(
    run: Run, machine: Machine, attempt: Attempt | None, attempts: Sequence[Attempt]
) -> datetime | None:
    """Return when the run or the attempt ended or lost the fence, whichever came first."""
    ends = [run.ended_at]
    if attempt is not None:
        ends.append(_released_at(run, machine, attempt, attempts))
        if attempt.number < run.fence:
            ends += [other.running_at for other in attempts if other.number == run.fence]
    return min((end for end in ends if end is not None), default=None)


def _released_at(
    run: Run, machine: Machine, attempt: Attempt, attempts: Sequence[Attempt]
) -> datetime | None:
    """Return when an attempt has no use for a machine any more: at its end.

    In a gang the machine then waits for the next attempt that is launched, but not for long.
    """
    node = attempt.node_of(machine.instance_id)
    if attempt.ended_at is None or attempt.ended is None or not run.request.gang.is_gang:
        return attempt.ended_at
    if node is None or not node.is_live or node.noticed_at or node.rank in attempt.ended.lost_ranks:
        return attempt.ended_at
    until = attempt.ended_at + REPAIR_FOR
    later = (other for other in attempts if other.number > attempt.number and other.was_launched)
    launched_at = next((other.launched_at for other in later), None)
    return until if launched_at is None else max(attempt.ended_at, min(until, launched_at))


def _allowed_time(attempt: Attempt | None, instance_id: str, *, now: datetime) -> timedelta:
    node = None if attempt is None else attempt.node_of(instance_id)
    if node is None or node.heartbeat_at is None or node.progress.phase != "drain":
        return GRACE
    return MAX_DRAIN if now - node.heartbeat_at < FRESH else GRACE
