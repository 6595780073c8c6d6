"""LaunchInstances: launches the instance of an attempt once, however often it is called."""

from dataclasses import replace

from runctl.control.ending import terminate_orphans
from runctl.control.ports.services import Services
from runctl.control.results import LaunchedAttempt, UnlaunchedAttempt
from runctl.control.use_existing_instance import use_existing_instance
from runctl.control.warm_instances import claim_warm
from runctl.model.errors import NotFoundError, RefusedError, RunEndedError, TransientError
from runctl.model.machine import LaunchResult
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.refusal import RefusalKind, kind_of
from runctl.model.run import Attempt, AttemptStage, Launched, Run, already_ended
from runctl.policy.capacity import cooldown
from runctl.policy.heartbeat import allowed_silence
from runctl.policy.launch_plan import (
    Launch,
    LaunchPolicy,
    Observation,
    Refuse,
    Wait,
    next_market,
    plan_launch,
)
from runctl.policy.launch_round import QuotaFacts, refused_quotas

POLICY = LaunchPolicy(plan=plan_launch)


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
    observed = Observation(
        run=run,
        attempts=tuple(found for found in attempts if found.number < number),
        zones=services.fleet.zones(),
        now=services.clock.now(),
        root_volumes=services.fleet.root_volumes(),
    )
    if attempt is not None and attempt.stage is AttemptStage.LAUNCHING and attempt.fleet_request:
        # A stored request is replayed verbatim, whatever the plan would be now. The answer may be
        # an old refusal, so a full round follows it.
        observed, result = _replay(services, observed, attempt)
        if result.instance_ids:
            return _record(services, attempt, result)
    else:
        attempt = claim_warm(services, observed, attempt, number)
    while attempt is None or attempt.stage is AttemptStage.LAUNCHING:
        plan = policy.plan(_look_up(services, observed, policy))
        if not isinstance(plan, Launch):
            attempt = _record_plan(services, run, number, attempt, plan.reason)
            return _refused(attempt, _outcome_of(plan))
        launch_try = 1 if attempt is None else attempt.launch_try + 1
        request = services.fleet.build_request(
            run_id=run.run_id,
            attempt=number,
            launch_try=launch_try,
            pools=plan.pools,
            volumes=plan.volumes,
        )
        source = Launched(request, plan=plan.reason)
        attempt = _open(services, run, number, source, launch_try=launch_try)
        if attempt.stage is not AttemptStage.LAUNCHING:
            break
        observed, result = _send(services, observed, attempt)
        if result.instance_ids:
            return _record(services, attempt, result)
        observed = replace(observed, asked=(*observed.asked, result.market))
    return _known(services, attempt)


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
    return replace(observed, replayed=result.market), result


def _send(
    services: Services, observed: Observation, attempt: Attempt
) -> tuple[Observation, LaunchResult]:
    """Send an attempt's stored request; return what is known then, and the answer."""
    try:
        result = services.fleet.launch(attempt.fleet_request)
    except RefusedError as exc:
        # A permission or a setting: the next request would be refused the same way.
        nothing = LaunchResult(instance_ids=(), pool=None, refusals={}, market="")
        return replace(observed, denial=str(exc)), nothing
    now = services.clock.now()
    for pool, code in result.refusals.items():
        if (time := cooldown(code)) is not None:
            services.ledger.cool_pool(pool, until=now + time)
    return replace(observed, now=now, refusals={**observed.refusals, **result.refusals}), result


def _look_up(services: Services, observed: Observation, policy: LaunchPolicy) -> Observation:
    """Add what the plan needs next: facts about pools before a request, quotas after a round."""
    now = services.clock.now()
    if observed.denial:
        return observed
    if next_market(observed) is None:
        return replace(observed, now=now, quotas=_look_up_quotas(services, observed))
    pools = observed.candidates
    return replace(
        observed,
        now=now,
        cooling=services.ledger.cooling_pools(pools, now=now),
        prices=services.prices.current(pools, now=now) if policy.needs_prices else {},
    )


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
    services: Services, run: Run, number: int, source: Launched, *, launch_try: int = 1
) -> Attempt:
    return services.ledger.open_attempt(
        run.run_id, number, launch_try=launch_try, source=source, now=services.clock.now()
    )


def _record(
    services: Services, attempt: Attempt, result: LaunchResult
) -> LaunchedAttempt | UnlaunchedAttempt:
    try:
        held = services.ledger.record_launch(
            attempt.run_id,
            attempt.number,
            instance_ids=result.instance_ids,
            pool=str(result.pool),
            now=services.clock.now(),
        )
    except RunEndedError:
        services.fleet.terminate(result.instance_ids)
        raise
    # The attempt ended meanwhile, or another request was faster: no attempt has these.
    orphans = [found for found in result.instance_ids if found not in held.instance_ids]
    if orphans:
        services.fleet.terminate(orphans)
    return _known(services, held)


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
