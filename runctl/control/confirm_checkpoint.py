"""ConfirmCheckpoint: settle how the attempt ended, and what it left."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runctl.control.ending import end_machines, terminate_orphans
from runctl.control.ports import Services
from runctl.control.results import EndedAttempt
from runctl.model.errors import NotFoundError, RunctlError
from runctl.model.launch_failure import explain_launch_failure
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt
from runctl.policy.capacity import AFTER_A_RECLAIM
from runctl.policy.health import describe


def confirm_checkpoint(
    services: Services, run_id: str, number: int, outcome: Mapping[str, Any]
) -> EndedAttempt:
    """Record the outcome unless the ledger has one already; return what holds.

    Safe to repeat: the outcome is set once, cooling and terminating twice changes nothing.
    """
    run = services.ledger.find_run(run_id)
    attempt = services.ledger.find_attempt(run_id, number)
    if run is None or attempt is None:
        raise NotFoundError(f"there is no attempt {number} of a run {run_id}")
    told = Outcome.from_document(dict(outcome))
    if attempt.ended is None:
        if told.kind is OutcomeKind.LOST:
            told = _explain(services, attempt, told)
        attempt = services.ledger.end_attempt(
            run_id,
            number,
            outcome=replace(
                told, step=run.step if told.step is None else told.step, save=run.save or None
            ),
            now=services.clock.now(),
        )
    ended = attempt.ended or told
    if ended.kind in {OutcomeKind.INTERRUPTED, OutcomeKind.LOST}:
        _leave_the_pool(services, attempt)
    if ended.kind is OutcomeKind.LOST:
        # Silence is no proof that the trainer is gone: it may train on, cut off from us, and cost.
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
    """Tell a machine that EC2 took from one that fell silent."""
    machines = services.fleet.describe(attempt.instance_ids)
    for machine in machines:
        if failure := explain_launch_failure(machine, attempt):
            return failure
    taken = next((reclaimed for reclaimed in machines if reclaimed.was_reclaimed), None)
    if taken is not None:
        return Outcome(
            kind=OutcomeKind.INTERRUPTED,
            reason=f"EC2 took {taken.instance_id} without a report ({taken.reason})",
        )
    if attempt.noticed_at is not None:
        return Outcome(
            kind=OutcomeKind.INTERRUPTED,
            reason="the interruption was announced, and no report came",
        )
    # Only a reason: what cannot be learned holds nothing up.
    with contextlib.suppress(RunctlError):
        for status in services.fleet.statuses(attempt.instance_ids):
            if status.impaired:
                return replace(lost, reason=f"{lost.reason}; {describe(status)}")
    return lost


def _leave_the_pool(services: Services, attempt: Attempt) -> None:
    if attempt.pool:
        until = services.clock.now() + AFTER_A_RECLAIM
        services.ledger.cool_pool(Pool.parse(attempt.pool), until=until)
