"""The launch plan of a gang: which pool is asked next, and when it waits, goes on or is refused."""

from datetime import datetime

from runctl.model.pool import Pool, machine_kind
from runctl.policy.capacity import candidate_pools, markets_of
from runctl.policy.disk_size import plan_volumes
from runctl.policy.gang import GangPlan
from runctl.policy.launch_plan import (
    GangRequest,
    Keep,
    Launch,
    Observation,
    Plan,
    Refuse,
    Wait,
    backoff,
)
from runctl.policy.launch_plan import plan_launch as plan_single
from runctl.policy.launch_round import Round, judge

# Each request takes a second or two, and a function a few minutes. The pools that refused cool
# down, so the next round goes on with the others.
MAX_REQUESTS = 40


def plan_launch(observed: Observation) -> Plan:
    """Return the next step of a launch, of a gang or of a single machine."""
    if observed.gang is None or not markets_of(observed.run.request.resources.market):
        return plan_single(observed)
    return _plan_gang(observed, observed.gang)


def next_request(observed: Observation) -> GangRequest | None:
    """Return the request for a gang to send next, None after a round."""
    if observed.gang is None or len(observed.tried) >= MAX_REQUESTS:
        return None
    order = (
        request
        for market in markets_of(observed.run.request.resources.market)
        for request in _requests(observed, observed.gang, market)
    )
    return next((request for request in order if request not in observed.tried), None)


def candidates(observed: Observation) -> tuple[Pool, ...]:
    """Return the pools that a gang may be launched in: only next to those that it keeps."""
    kept = None if observed.gang is None else observed.gang.pool
    if kept is None:
        return observed.candidates
    # The same type first: the slowest node sets the pace.
    types = sorted(observed.instance_types, key=lambda name: name != kept.instance_type)
    markets = markets_of(observed.run.request.resources.market)
    return candidate_pools(types, (kept.zone,), markets)


def _plan_gang(observed: Observation, gang: GangPlan) -> Plan:
    if not gang.missing:
        return Keep(kept=gang.kept, reason=f"all {len(gang.kept)} machines go on")
    if not gang.needed and (observed.tried or observed.replayed):
        return Keep(kept=gang.kept, reason=f"without {gang.missing} spares, which EC2 refused")
    if observed.denial and not gang.can_train:
        return Refuse(reason=f"the launch was refused: {observed.denial}")
    request = None if observed.denial else next_request(observed)
    if request is None:
        return _after_round(observed, gang)
    planned = plan_volumes(
        observed.run,
        observed.attempts,
        observed.root_volumes,
        {machine_kind(request.pool.instance_type)},
    )
    reason = "; ".join(filter(None, (_explain(observed, gang, request), planned.reason)))
    return Launch(
        pools=(request.pool,),
        market=request.pool.market,
        reason=reason,
        volumes=planned.volumes,
        count=gang.missing,
        least=max(gang.needed, 1),
        is_placed=request.is_placed,
        kept=gang.kept,
    )


def _requests(observed: Observation, gang: GangPlan, market: str) -> list[GangRequest]:
    """Return the requests of one market: each pool in its placement group, then without it."""
    pools = [pool for pool in candidates(observed) if pool.market == market]
    tried = {request.pool for request in observed.tried}
    ready = [
        pool
        for pool in pools
        if pool in tried or pool not in observed.cooling or _is_alike(pool, gang)
    ]
    ready = ready or sorted(pools, key=lambda pool: observed.cooling[pool])
    ways = (False,) if observed.is_unplaceable else (True, False)
    return [GangRequest(pool, is_placed) for is_placed in ways for pool in ready]


def _is_alike(pool: Pool, gang: GangPlan) -> bool:
    """Whether a pool is that of the survivors; it just took a machine, but another type is slow."""
    return gang.pool is not None and pool.instance_type == gang.pool.instance_type


def _after_round(observed: Observation, gang: GangPlan) -> Plan:
    if gang.can_train:
        return Keep(
            kept=gang.kept, reason=f"{len(gang.kept)} of {gang.nodes} nodes, without the others"
        )
    had_machine = any(attempt.was_launched for attempt in observed.attempts)
    verdict = judge(
        Round(
            candidates=candidates(observed),
            refusals=observed.refusals,
            quotas=observed.quotas,
            had_machine=had_machine,
            nodes=gang.nodes,
        )
    )
    if verdict.is_final:
        return Refuse(reason=verdict.reason)
    return Wait(
        until=next_try_at(observed, retry_soon=verdict.retry_soon),
        reason=verdict.reason,
        retry_soon=verdict.retry_soon,
    )


def next_try_at(observed: Observation, *, retry_soon: bool) -> datetime:
    """Return when to ask again: no later than when a gang gives up on its survivors."""
    until = observed.now + backoff(observed.attempts, retry_soon=retry_soon)
    repair_until = None if observed.gang is None else observed.gang.repair_until
    return until if repair_until is None else min(until, repair_until)


def _explain(observed: Observation, gang: GangPlan, request: GangRequest) -> str:
    what = f"{gang.missing} of {gang.total} machines of {request.pool}"
    if not gang.kept:
        what = f"{gang.missing} machines of {request.pool}"
    parts = [what]
    if observed.tried:
        last = observed.tried[-1]
        count = len(observed.tried)
        refused = "a refused request" if count == 1 else f"{count} refused requests, the last one"
        parts.append(f"after {refused} for {last.pool}")
    if not request.is_placed:
        parts.append("without a placement group")
    if request.pool in observed.prices:
        parts.append(f"${observed.prices[request.pool]} an hour each")
    return "; ".join(parts)
