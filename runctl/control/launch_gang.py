"""The launch of a gang: whom it keeps, and what follows once its attempt has machines."""

from dataclasses import replace

from runctl.control.ending import end_released, report_unheard
from runctl.control.ports.services import Services
from runctl.model.machine import LaunchResult
from runctl.model.node import NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.policy.gang import GangPlan, is_spare, plan_gang, share_losses

UP = frozenset({"pending", "running"})
# EC2 has no code for it: it promises not to launch a part of what was requested.
PARTIAL_LAUNCH = "InsufficientInstanceCapacity"


def find_gang(services: Services, run: Run, attempts: tuple[Attempt, ...]) -> GangPlan | None:
    """Return whom the next attempt of a gang keeps; None for a run of single machines.

    The ledger may not know yet that a machine is gone, so EC2 is asked; one that EC2 does not know
    is too new.
    """
    if not run.request.gang.is_gang:
        return None
    now = services.clock.now()
    plan = plan_gang(run, attempts, now=now)
    if not plan.kept:
        return plan
    machines = services.fleet.describe([kept.instance_id for kept in plan.kept])
    gone = {machine.instance_id for machine in machines if machine.state not in UP}
    return plan_gang(run, attempts, now=now, gone=gone) if gone else plan


def without_partial_launch(
    services: Services, run: Run, attempt: Attempt, result: LaunchResult
) -> LaunchResult:
    """Return fewer machines than an attempt needs at once, and count them as a refusal."""
    gang = run.request.gang
    needed = max(gang.nodes - len(attempt.kept), 1)
    if not gang.is_gang or not result.instance_ids or len(result.instance_ids) >= needed:
        return result
    services.fleet.terminate(result.instance_ids)
    refused = {} if result.pool is None else {result.pool: PARTIAL_LAUNCH}
    return replace(result, instance_ids=(), refusals={**result.refusals, **refused})


def settle_launch(services: Services, run: Run, attempt: Attempt) -> Attempt:
    """Complete the launch of a gang whose machines are on record; return its attempt.

    A machine may have been lost between the plan and the record, when its event found it on the
    earlier attempt or on none: this one cannot train with it, and ends at once for the next one.
    Machines of earlier attempts that are not kept are ended.
    """
    if not run.request.gang.is_gang or attempt.ended is not None:
        return attempt
    attempts = services.ledger.attempts(run.run_id)
    if attempt.stage is AttemptStage.LAUNCHED:
        attempt = _end_if_lost(services, run, attempt, attempts)
    end_released(services, [found for found in attempts if found.number < attempt.number])
    return attempt


def _end_if_lost(
    services: Services, run: Run, attempt: Attempt, attempts: list[Attempt]
) -> Attempt:
    known = next(found for found in share_losses(attempts) if found.number == attempt.number)
    lost = []
    for node in known.nodes:
        if node.noticed_at is not None:
            services.ledger.record_notice(node.node_id, now=services.clock.now())
        if node.stage is NodeStage.GONE:
            services.ledger.record_gone(node.node_id)
        if not (node.is_live and node.noticed_at is None) and not is_spare(run, node):
            lost.append(node)
    if not lost:
        return attempt
    return end_before_token(services, attempt, ", ".join(node.instance_id for node in lost))


def end_before_token(services: Services, attempt: Attempt, lost: str) -> Attempt:
    """End an attempt that lost a machine before it had a token, so that the next one begins."""
    reason = f"{lost} was lost before the attempt began"
    report_unheard(services, attempt, Outcome(kind=OutcomeKind.INTERRUPTED, reason=reason))
    return services.ledger.find_attempt(attempt.run_id, attempt.number) or attempt
