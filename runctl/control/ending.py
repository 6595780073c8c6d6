"""Ending what is left of a run: its open attempts and their machines."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from runctl.control.ports import Services
from runctl.model.machine import Machine
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.billing import may_terminate

# These agents have reported: they shut their machines down, or EC2 is taking them.
LEAVE_BY_THEMSELVES = frozenset(
    {OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.INTERRUPTED}
)
# EC2 is eventually consistent: for a while it may not know what it has just launched.
TOO_NEW = timedelta(minutes=10)


def end_open_attempts(
    services: Services,
    run_id: str,
    *,
    reason: str,
    unlaunched: OutcomeKind = OutcomeKind.STOPPED,
) -> list[int]:
    """End every attempt that has not ended, in the ledger; return which this call ended.

    They were stopped, and those that never had a machine are what `unlaunched` says.
    Its machines come after: an attempt that is closed first cannot be given a token meanwhile.
    """
    still_open = [
        attempt
        for attempt in services.ledger.attempts(run_id)
        if attempt.stage is not AttemptStage.ENDED
    ]
    for attempt in still_open:
        kind = OutcomeKind.STOPPED if attempt.was_launched else unlaunched
        services.ledger.end_attempt(
            run_id,
            attempt.number,
            outcome=Outcome(kind=kind, reason=reason),
            now=services.clock.now(),
        )
    return [attempt.number for attempt in still_open]


def end_leftovers(services: Services, run_id: str) -> list[str]:
    """Terminate the machines of a run that nobody else ends; return which."""
    return end_machines(services, services.ledger.attempts(run_id), where=_is_left_over)


def terminate_orphans(services: Services, attempt: Attempt) -> list[str]:
    """Terminate what was launched for an attempt but is not on its record; return which.

    Whoever launched it may have stopped between the launch and the record.
    """
    return end_machines(services, [attempt], where=is_stray)


def end_machines(
    services: Services,
    attempts: Sequence[Attempt],
    *,
    where: Callable[[Attempt, Machine], bool] = lambda _attempt, _machine: True,
) -> list[str]:
    """Terminate the live machines of `attempts` that may be; return which.

    An existing instance belongs to its owner: the agent on it leaves by itself.
    """
    to_terminate = [
        machine.instance_id
        for attempt, machine in live_machines(services, attempts)
        if where(attempt, machine)
        and may_end(services, attempt, machine)
        and not attempt.is_on_existing_instance
    ]
    if to_terminate:
        services.fleet.terminate(to_terminate)
    return to_terminate


def may_end(services: Services, attempt: Attempt, machine: Machine) -> bool:
    """Whether the first-hour rule lets us terminate an attempt's machine."""
    return may_terminate(
        launched_at=machine.launched_at,
        noticed_at=attempt.noticed_at,
        now=services.clock.now(),
    )


def live_machines(
    services: Services, attempts: Sequence[Attempt]
) -> Iterator[tuple[Attempt, Machine]]:
    """Yield every machine of `attempts`, all of one run, that lives as far as anyone knows.

    What the tags tell and what the ledger tells are joined: a machine that was never recorded has
    only its tags, one that is too new for EC2's index only its record.
    """
    if not attempts:
        return
    by_number = {attempt.number: attempt for attempt in attempts}
    tagged = services.fleet.find_by_run(attempts[0].run_id)
    for machine in tagged:
        if machine.attempt in by_number:
            yield by_number[machine.attempt], machine
    seen = {machine.instance_id for machine in tagged}
    owners = {instance: attempt for attempt in attempts for instance in attempt.instance_ids}
    recorded = [owner for owner in owners if owner not in seen]
    known = {machine.instance_id: machine for machine in services.fleet.describe(recorded)}
    for instance_id in recorded:
        attempt = owners[instance_id]
        found = known.get(instance_id) or _too_new(services, attempt, instance_id)
        if found is not None and found.is_live:
            yield attempt, found


def _too_new(services: Services, attempt: Attempt, instance_id: str) -> Machine | None:
    launched_at = attempt.launched_at
    if launched_at is None or services.clock.now() - launched_at > TOO_NEW:
        return None
    return Machine(
        instance_id=instance_id,
        state="pending",
        pool=Pool.parse(attempt.pool),
        launched_at=launched_at,
    )


def _is_left_over(attempt: Attempt, machine: Machine) -> bool:
    if attempt.ended is None:
        return False
    if is_stray(attempt, machine):
        return True
    # One that is done has told so just before it reported, and uploads what it wrote; should it
    # stay, the sweep ends it a few minutes later.
    return attempt.ended.kind not in LEAVE_BY_THEMSELVES and attempt.phase != "done"


def is_stray(attempt: Attempt, machine: Machine) -> bool:
    """Whether a machine was launched for an attempt but is not on its record."""
    return machine.instance_id not in attempt.instance_ids
