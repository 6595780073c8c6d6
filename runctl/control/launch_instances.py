"""LaunchInstances: launches the instance of an attempt once, however often it is called."""

from dataclasses import replace

from runctl.control.ending import terminate_orphans
from runctl.control.launch_gang import find_gang, settle_launch, without_partial_launch
from runctl.control.ports.services import Services
from runctl.control.results import LaunchedAttempt, UnlaunchedAttempt
from runctl.control.use_existing_instance import use_existing_instance
from runctl.control.warm_instances import claim_warm
from runctl.model.errors import NotFoundError, RefusedError, RunEndedError, TransientError
from runctl.model.machine import LaunchResult
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.refusal import RefusalKind, kind_of
from runctl.model.run import Attempt, AttemptStage, Launched, Run, already_ended
from runctl.policy import gang_launch
from runctl.policy.capacity import cooldown
from runctl.policy.deployment_limits import plan_launch
from runctl.policy.heartbeat import allowed_silence
from runctl.policy.launch_plan import (
    GangRequest,
    Keep,
    Launch,
    LaunchPolicy,
    Observation,
    Refuse,
    Wait,
    next_market,
)
from runctl.policy.launch_round import QuotaFacts, refused_quotas

POLICY = LaunchPolicy(plan=plan_launch)
NOTHING = LaunchResult(instance_ids=(), pool=None, refusals={}, market="")


def launch_instances(
    services: Services, run_id: str, number: int, *, policy: LaunchPolicy = POLICY
) -> LaunchedAttempt | UnlaunchedAttempt:
    """Launch attempt `number`, or adopt what was launched for it.

    The state machine and the handler of interruptions both call this, and either call may be
    repeated at any point. The exact request is stored before EC2 receives it, and EC2 answers the
    same request the same way, so the second call finds what the first launched. Raises
    RunEndedError if the run has ended; then nothing of the attempt is left running.
    """
    run = services.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    try:
        if run.ended is not None:
            # Not even a replay: EC2 may never have received the request.
            raise already_ended(run)
        return _launch(services, run, number, policy)
    except RunEndedError:
        if attempt := services.ledger.find_attempt(run_id, number):
            terminate_orphans(services, attempt)
        raise


def _launch(
    services: Services, run: Run, number: int, policy: LaunchPolicy
) -> LaunchedAttempt | UnlaunchedAttempt:
    if number == 1 and run.request.resources.instance_id:
        existing, refusal = use_existing_instance(services, run, number)
        return _known(services, existing) if refusal is None else _refused(existing, refusal)
    attempts = services.ledger.attempts(run.run_id)
    attempt = next((found for found in attempts if found.number == number), None)
    earlier = tuple(found for found in attempts if found.number < number)
    observed = Observation(
        run=run,
        attempts=earlier,
        zones=services.fleet.zones(),
        now=services.clock.now(),
        root_volumes=services.fleet.root_volumes(),
        limits=services.fleet.limits,
    )
    if attempt is not None and _is_stored(attempt):
        observed, result = _resume(services, observed, attempt)
        if result is not None:
            return _record(services, run, attempt, result)
    else:
        attempt = claim_warm(services, observed, attempt, number)
    if attempt is None or attempt.stage is AttemptStage.LAUNCHING:
        observed = replace(observed, gang=find_gang(services, run, earlier))
        return _request(services, observed, attempt, number, policy)
    return _known(services, attempt)


def _request(
    services: Services,
    observed: Observation,
    attempt: Attempt | None,
    number: int,
    policy: LaunchPolicy,
) -> LaunchedAttempt | UnlaunchedAttempt:
    """Send one request after the other until something is launched, or the plan is another."""
    run = observed.run
    while attempt is None or attempt.stage is AttemptStage.LAUNCHING:
        plan = policy.plan(_look_up(services, observed, policy))
        if isinstance(plan, Wait | Refuse):
            attempt = _record_plan(services, run, number, attempt, plan.reason)
            return _refused(attempt, _outcome_of(plan))
        launch_try = 1 if attempt is None else attempt.launch_try + 1
        try:
            attempt = _open_plan(services, run, number, plan, launch_try)
        except RefusedError as exc:
            # The deployment cannot launch it, so nothing was requested.
            observed = replace(observed, denial=str(exc), is_unplaceable=True)
            continue
        if attempt.stage is not AttemptStage.LAUNCHING:
            break
        if isinstance(plan, Keep):
            return _record(services, run, attempt, NOTHING)
        observed, result = _send(services, observed, attempt)
        if result.instance_ids:
            return _record(services, run, attempt, result)
        observed = _after_refusal(observed, plan)
    return _known(services, attempt)


def _is_stored(attempt: Attempt) -> bool:
    """Whether an earlier call has stored what to do for an attempt, and not what came of it."""
    is_launching = attempt.stage is AttemptStage.LAUNCHING
    return is_launching and bool(attempt.fleet_request or attempt.kept)


def _resume(
    services: Services, observed: Observation, attempt: Attempt
) -> tuple[Observation, LaunchResult | None]:
    """Resume a launch; return what is known then, and what to record unless it was refused.

    A stored request is replayed verbatim, whatever the plan would be now. The answer may be an old
    refusal, so a full round follows it.
    """
    if not attempt.fleet_request:
        return observed, NOTHING
    observed, result = _replay(services, observed, attempt)
    return observed, result if result.instance_ids else None


def _open_plan(
    services: Services, run: Run, number: int, plan: Launch | Keep, launch_try: int
) -> Attempt:
    if isinstance(plan, Keep):
        source = Launched(plan=plan.reason, kept=plan.kept)
        return _open(services, run, number, source, launch_try=launch_try, count=len(plan.kept))
    count = len(plan.kept) + plan.count
    request = services.fleet.build_request(
        run_id=run.run_id,
        attempt=number,
        launch_try=launch_try,
        pools=plan.pools,
        volumes=plan.volumes,
        count=plan.count,
        least=plan.least,
        nodes=count,
        placed=plan.is_placed,
    )
    source = Launched(request, plan=plan.reason, kept=plan.kept)
    return _open(services, run, number, source, launch_try=launch_try, count=count)


def _after_refusal(observed: Observation, plan: Launch) -> Observation:
    """Return what is known after a request that launched nothing."""
    if observed.gang is None:
        return replace(observed, asked=(*observed.asked, plan.market))
    tried = (*observed.tried, GangRequest(plan.pools[0], plan.is_placed))
    if observed.denial and plan.is_placed:
        # Perhaps because of the placement group: the answer without it counts.
        return replace(observed, tried=tried, is_unplaceable=True, denial="")
    return replace(observed, tried=tried)


def _record_plan(
    services: Services, run: Run, number: int, attempt: Attempt | None, reason: str
) -> Attempt:
    """Record why nothing is requested, unless an earlier request explains it."""
    if attempt is not None and not attempt.is_on_warm_instance:
        return attempt
    launch_try = 1 if attempt is None else attempt.launch_try + 1
    return _open(services, run, number, Launched(plan=reason), launch_try=launch_try)


def _replay(
    services: Services, observed: Observation, attempt: Attempt
) -> tuple[Observation, LaunchResult]:
    observed, result = _send(services, observed, attempt)
    if not observed.denial and not result.was_answered:
        # The call that sent it first may have launched an instance: only an answered replay shows
        # it.
        raise TransientError(f"EC2 did not answer the replay of try {attempt.launch_try}")
    if observed.denial and observed.run.request.gang.is_gang:
        # Perhaps because of the placement group; the round that follows shows it.
        observed = replace(observed, denial="", is_unplaceable=True)
    return replace(observed, replayed=result.market), result


def _send(
    services: Services, observed: Observation, attempt: Attempt
) -> tuple[Observation, LaunchResult]:
    """Send an attempt's stored request; return what is known then, and the answer."""
    try:
        result = services.fleet.launch(attempt.fleet_request)
    except RefusedError as exc:
        # A permission or a setting: the next request would be refused the same way.
        return replace(observed, denial=str(exc)), NOTHING
    now = services.clock.now()
    result = without_partial_launch(services, observed.run, attempt, result)
    for pool, code in result.refusals.items():
        if (time := cooldown(code)) is not None:
            services.ledger.cool_pool(pool, until=now + time)
    return replace(observed, now=now, refusals={**observed.refusals, **result.refusals}), result


def _look_up(services: Services, observed: Observation, policy: LaunchPolicy) -> Observation:
    """Add what the plan needs next: facts about pools before a request, quotas after a round."""
    now = services.clock.now()
    if observed.denial:
        return observed
    upcoming = next_market if observed.gang is None else gang_launch.next_request
    if upcoming(observed) is None:
        return replace(observed, now=now, quotas=_look_up_quotas(services, observed))
    pools = observed.candidates
    return replace(
        observed,
        now=now,
        cooling=services.ledger.cooling_pools(pools, now=now),
        prices=services.prices.current(pools, now=now) if policy.needs_prices else {},
        running=_count_others(services, observed) if observed.limits.max_instances else 0,
    )


def _count_others(services: Services, observed: Observation) -> int:
    """Return the number of the deployment's instances, without those that the run replaces."""
    return sum(found.run_id != observed.run.run_id for found in services.fleet.find_all())


def _look_up_quotas(services: Services, observed: Observation) -> QuotaFacts:
    kinds = {kind_of(code) for code in observed.refusals.values()}
    has_quota = bool(kinds & {RefusalKind.QUOTA, RefusalKind.FLEETS})
    quotas = refused_quotas(observed.candidates, observed.refusals)
    return QuotaFacts(
        region=services.quotas.region() if has_quota else "",
        allowed={quota: services.quotas.allowed(quota) for quota in quotas},
        vcpus=services.quotas.vcpus(observed.instance_types) if quotas else {},
    )


def _open(
    services: Services,
    run: Run,
    number: int,
    source: Launched,
    *,
    launch_try: int,
    count: int = 1,
) -> Attempt:
    return services.ledger.open_attempt(
        run.run_id,
        number,
        launch_try=launch_try,
        source=source,
        now=services.clock.now(),
        count=count,
    )


def _record(
    services: Services, run: Run, attempt: Attempt, result: LaunchResult
) -> LaunchedAttempt | UnlaunchedAttempt:
    """Record what an attempt keeps, and what was launched for it."""
    try:
        held = services.ledger.record_launch(
            attempt.run_id,
            attempt.number,
            instance_ids=result.instance_ids,
            pool=str(result.pool or ""),
            now=services.clock.now(),
            kept=attempt.kept,
        )
    except RunEndedError:
        services.fleet.terminate(result.instance_ids)
        raise
    # The attempt ended meanwhile, or another request was faster: no attempt has these.
    orphans = [found for found in result.instance_ids if found not in held.instance_ids]
    if orphans:
        services.fleet.terminate(orphans)
    return _known(services, settle_launch(services, run, held))


def _known(services: Services, attempt: Attempt) -> LaunchedAttempt | UnlaunchedAttempt:
    if attempt.ended is None:
        attempts = services.ledger.attempts(attempt.run_id)
        silence = allowed_silence([found for found in attempts if found.number <= attempt.number])
        return LaunchedAttempt(
            run_id=attempt.run_id,
            attempt=attempt.number,
            heartbeat_seconds=int(silence.total_seconds()),
        )
    # A call may have ended between the launch and its record.
    terminate_orphans(services, attempt)
    return _refused(attempt, attempt.ended)


def _refused(attempt: Attempt, outcome: Outcome) -> UnlaunchedAttempt:
    return UnlaunchedAttempt(run_id=attempt.run_id, attempt=attempt.number, outcome=outcome)


def _outcome_of(plan: Wait | Refuse) -> Outcome:
    if isinstance(plan, Refuse):
        return Outcome(kind=OutcomeKind.FAILED, reason=plan.reason)
    return Outcome(
        kind=OutcomeKind.NO_CAPACITY,
        reason=plan.reason,
        retry_soon=plan.retry_soon,
        retry_at=plan.until,
    )
