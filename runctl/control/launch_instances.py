"""LaunchInstances: give an attempt its machine, once, whoever asks and however often."""

from typing import Any

from runctl.control.ending import terminate_orphans
from runctl.control.ports import Services
from runctl.control.use_existing_instance import use_existing_instance
from runctl.model.errors import NotFoundError, RefusedError, RunEndedError, TransientError
from runctl.model.machine import LaunchResult
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.refusal import RefusalKind, kind_of
from runctl.model.run import Attempt, AttemptStage, Launched, Run, already_ended
from runctl.policy.capacity import candidate_pools, choose_pools, cooldown, tries_in_a_round
from runctl.policy.heartbeat import allowed_silence
from runctl.policy.launch_round import Round, refused_quotas, settle


def launch_instances(services: Services, run_id: str, number: int) -> dict[str, Any]:
    """Launch attempt `number`, or adopt what was launched for it.

    The state machine and the interruption's handler both come here, each may be repeated at any
    point. The exact request is on record before EC2 sees it, and EC2 answers the same request the
    same way, so whoever comes second finds what the first one launched. Raises RunEndedError when
    the run has ended; then nothing of the attempt is left running.
    """
    run = services.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    try:
        if run.ended is not None:
            # Not even a replay: EC2 may never have seen the request.
            raise already_ended(run)
        return _launch(services, run, number)
    except RunEndedError:
        if attempt := services.ledger.find_attempt(run_id, number):
            terminate_orphans(services, attempt)
        raise


def _launch(services: Services, run: Run, number: int) -> dict[str, Any]:
    if number == 1 and run.request.instance_id:
        existing, refusal = use_existing_instance(services, run, number)
        return _known(services, existing) if refusal is None else _refused(existing, refusal)
    attempt = services.ledger.find_attempt(run.run_id, number)
    # A try on record is replayed first; that may tell of a refusal long ago, so a fresh round
    # follows it.
    last_try = tries_in_a_round(run.request.market) + (attempt.launch_try if attempt else 0)
    is_replay = attempt is not None
    if attempt is None:
        attempt = _open(services, run, number, launch_try=1)
    refusals: dict[Pool, str] = {}
    while True:
        if attempt.stage is not AttemptStage.LAUNCHING:
            return _known(services, attempt)
        try:
            result = services.fleet.launch(attempt.fleet_request)
        except RefusedError as exc:
            # A permission or a setting: the next try would be refused the same way.
            reason = f"the launch was refused: {exc}"
            return _refused(attempt, Outcome(kind=OutcomeKind.FAILED, reason=reason))
        if is_replay and not result.was_answered:
            # Whoever sent it first may have launched a machine: only a replay that is answered
            # tells.
            raise TransientError(f"EC2 did not answer the replay of try {attempt.launch_try}")
        is_replay = False
        _cool(services, result)
        refusals |= result.refusals
        if result.instance_ids:
            return _record(services, attempt, result)
        if attempt.launch_try >= last_try:
            return _refused(attempt, settle(_look_up(services, run, refusals)))
        attempt = _open(services, run, number, launch_try=attempt.launch_try + 1)


def _open(services: Services, run: Run, number: int, *, launch_try: int) -> Attempt:
    now = services.clock.now()
    candidates = candidate_pools(
        run.request.instance_types,
        services.fleet.zones(),
        market=run.request.market,
        launch_try=launch_try,
    )
    pools = choose_pools(candidates, cooling=services.ledger.cooling_pools(candidates, now=now))
    request = services.fleet.build_request(
        run_id=run.run_id, attempt=number, launch_try=launch_try, pools=pools
    )
    return services.ledger.open_attempt(
        run.run_id, number, launch_try=launch_try, source=Launched(request), now=now
    )


def _record(services: Services, attempt: Attempt, result: LaunchResult) -> dict[str, Any]:
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
    # The attempt ended meanwhile, or another try of it was quicker: ours is nobody's.
    if orphans := [one for one in result.instance_ids if one not in held.instance_ids]:
        services.fleet.terminate(orphans)
    return _known(services, held)


def _known(services: Services, attempt: Attempt) -> dict[str, Any]:
    if attempt.ended is None:
        attempts = services.ledger.attempts(attempt.run_id)
        silence = allowed_silence([one for one in attempts if one.number <= attempt.number])
        return {
            "run_id": attempt.run_id,
            "attempt": attempt.number,
            "launched": True,
            "heartbeat_seconds": int(silence.total_seconds()),
        }
    # Whoever launched it may have stopped between the launch and the record.
    terminate_orphans(services, attempt)
    return _refused(attempt, attempt.ended)


def _refused(attempt: Attempt, outcome: Outcome) -> dict[str, Any]:
    return {
        "run_id": attempt.run_id,
        "attempt": attempt.number,
        "launched": False,
        "outcome": outcome.as_document(),
    }


def _cool(services: Services, result: LaunchResult) -> None:
    now = services.clock.now()
    for pool, code in result.refusals.items():
        if (time := cooldown(code)) is not None:
            services.ledger.cool_pool(pool, until=now + time)


def _look_up(services: Services, run: Run, refusals: dict[Pool, str]) -> Round:
    """Gather what the refusals of a round leave open: the quotas in the way, and the vCPUs."""
    candidates = tuple(
        pool
        for launch_try in range(1, tries_in_a_round(run.request.market) + 1)
        for pool in candidate_pools(
            run.request.instance_types,
            services.fleet.zones(),
            market=run.request.market,
            launch_try=launch_try,
        )
    )
    kinds = {kind_of(code) for code in refusals.values()}
    has_quota = bool(kinds & {RefusalKind.QUOTA, RefusalKind.FLEETS})
    quotas = refused_quotas(candidates, refusals)
    return Round(
        candidates=candidates,
        refusals=refusals,
        region=services.quotas.region() if has_quota else "",
        allowed={quota: services.quotas.allowed(quota) for quota in quotas},
        vcpus=services.quotas.vcpus(run.request.instance_types) if quotas else {},
        had_machine=RefusalKind.UNSUPPORTED in kinds and _had_machine(services, run),
    )


def _had_machine(services: Services, run: Run) -> bool:
    attempts = services.ledger.attempts(run.run_id)
    return any(attempt.was_launched and not attempt.is_on_existing_instance for attempt in attempts)
