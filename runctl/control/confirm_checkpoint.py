"""ConfirmCheckpoint: records the outcome of an attempt, and ends what is left of it."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runctl.control.ending import end_machines, end_released, terminate_orphans
from runctl.control.ports.services import Services
from runctl.control.results import EndedAttempt
from runctl.model.errors import NotFoundError, RunctlError
from runctl.model.launch_failure import explain_launch_failure
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import INTERRUPTIONS, Attempt
from runctl.policy.capacity import AFTER_A_RECLAIM
from runctl.policy.gang import survivors
from runctl.policy.health import describe


def confirm_checkpoint(
    services: Services, run_id: str, number: int, outcome: Mapping[str, Any]
) -> EndedAttempt:
    """Record the outcome unless the ledger has one already; return what the ledger holds.

    Safe to repeat: the outcome is set once; to cool or terminate twice changes nothing.
    """
    run = services.ledger.find_run(run_id)
    attempt = services.ledger.find_attempt(run_id, number)
    if run is None or attempt is None:
        raise NotFoundError(f"there is no attempt {number} of a run {run_id}")
    reported = Outcome.from_document(dict(outcome))
    if attempt.ended is None:
        if reported.kind is OutcomeKind.LOST:
            reported = _explain(services, attempt, reported)
        attempt = services.ledger.end_attempt(
            run_id,
            number,
            outcome=replace(
                reported,
                step=run.step if reported.step is None else reported.step,
                save=run.save or None,
            ),
            now=services.clock.now(),
        )
    ended = attempt.ended or reported
    if ended.kind in INTERRUPTIONS:
        _cool_pools(services, attempt)
    if run.request.gang.is_gang and ended.kind in INTERRUPTIONS:
        # The others wait for the next attempt.
        attempts = [found for found in services.ledger.attempts(run_id) if found.number <= number]
        waiting = survivors(attempts, now=services.clock.now())
        end_released(services, attempts, kept={node.instance_id for node in waiting})
    elif ended.kind is OutcomeKind.LOST:
        # Silence does not prove that the trainer is gone: it may continue, cut off, and cost money.
        end_machines(services, [attempt])
    else:
        terminate_orphans(services, attempt)
    return EndedAttempt(
        run_id=run_id,
        attempt=number,
        outcome=ended,
        step=run.step,
        save=run.save or None,
        checkpoint=run.newest,
    )


def _explain(services: Services, attempt: Attempt, lost: Outcome) -> Outcome:
    """Return the outcome of a lost attempt, with the reason if EC2 gives one."""
    machines = services.fleet.describe(attempt.instance_ids)
    for machine in machines:
        if failure := explain_launch_failure(machine, attempt):
            return failure
    reclaimed = next((machine for machine in machines if machine.was_reclaimed), None)
    if lost.lost_ranks:
        # Reported by the agents that are left: only the kind may be better known here.
        is_interrupted = reclaimed is not None or attempt.noticed_at is not None
        return replace(lost, kind=OutcomeKind.INTERRUPTED) if is_interrupted else lost
    if reclaimed is not None:
        return Outcome(
            kind=OutcomeKind.INTERRUPTED,
            reason=f"EC2 took {reclaimed.instance_id} without a report ({reclaimed.reason})",
        )
    if attempt.noticed_at is not None:
        return Outcome(
            kind=OutcomeKind.INTERRUPTED,
            reason="the interruption was announced, and no report arrived",
        )
    # This is only for the reason, so an error does not hold the run up.
    with contextlib.suppress(RunctlError):
        for status in services.fleet.statuses(attempt.instance_ids):
            if status.impaired:
                return replace(lost, reason=f"{lost.reason}; {describe(status)}")
    return lost


def _cool_pools(services: Services, attempt: Attempt) -> None:
    until = services.clock.now() + AFTER_A_RECLAIM
    for pool in {node.pool for node in attempt.nodes if node.pool}:
        services.ledger.cool_pool(Pool.parse(pool), until=until)
