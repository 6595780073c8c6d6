"""LaunchInstances: give an attempt its machine, once, whoever asks and however often."""

from typing import Any

from runctl.control.ending import end_strays
from runctl.control.lend_instance import lend_instance
from runctl.control.ports import Services
from runctl.model.errors import NotFoundError, QuotaError, RefusedError, RunEndedError
from runctl.model.machine import LaunchResult
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage, Run, already_ended
from runctl.policy.capacity import candidate_pools, choose_pools, cooldown, tries_in_a_round
from runctl.policy.heartbeat import allowed_silence

MOST_REFUSALS_TOLD = 6


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
            end_strays(services, attempt)
        raise


def _launch(services: Services, run: Run, number: int) -> dict[str, Any]:
    if number == 1 and run.request.instance_id:
        lent, refusal = lend_instance(services, run, number)
        return _known(services, lent) if refusal is None else _refused(lent, refusal)
    attempt = services.ledger.find_attempt(run.run_id, number)
    # A try on record is replayed first; that may tell of a refusal long ago, so a fresh round
    # follows it.
    last_try = tries_in_a_round(run.request.market) + (attempt.launch_try if attempt else 0)
    if attempt is None:
        attempt = _open(services, run, number, launch_try=1)
    refusals: dict[Pool, str] = {}
    quota = ""
    while True:
        if attempt.stage is not AttemptStage.LAUNCHING:
            return _known(services, attempt)
        try:
            result = services.fleet.launch(attempt.fleet_request)
        except QuotaError as exc:
            quota = str(exc)
        except RefusedError as exc:
            # A permission or a setting: the next try would be refused the same way.
            return _refused(attempt, _failed(f"the launch was refused: {exc}"))
        else:
            _cool(services, result)
            refusals |= result.refusals
            if result.instance_ids:
                return _record(services, attempt, result)
        if attempt.launch_try >= last_try:
            return _refused(attempt, _tell(refusals, quota))
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
        run.run_id, number, launch_try=launch_try, fleet_request=request, now=now
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
    if strays := [one for one in result.instance_ids if one not in held.instance_ids]:
        services.fleet.terminate(strays)
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
    end_strays(services, attempt)
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
        services.ledger.cool_pool(pool, until=now + cooldown(code))


def _failed(reason: str) -> Outcome:
    return Outcome(kind=OutcomeKind.FAILED, reason=reason)


def _tell(refusals: dict[Pool, str], quota: str) -> Outcome:
    told = [f"{pool}: {code}" for pool, code in list(refusals.items())[:MOST_REFUSALS_TOLD]]
    if left := len(refusals) - len(told):
        told.append(f"{left} more pools")
    if quota:
        told.append(quota)
    return Outcome(kind=OutcomeKind.NO_CAPACITY, reason="; ".join(told))
