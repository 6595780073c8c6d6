"""The launch plan: where and when an attempt gets its instance, and why.

`runctl.model.decision` answers whether a run continues; the plan answers where and when.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.kinds import KindPolicy
from runctl.model.outcome import Outcome, OutcomeKind, is_own_failure
from runctl.model.pool import MachineKind, Pool, machine_kind
from runctl.model.root_volume import RootVolume
from runctl.model.run import Attempt, KeptNode, Run
from runctl.policy.capacity import candidate_pools, choose_pools, markets_of
from runctl.policy.disk_size import plan_volumes
from runctl.policy.gang import GangPlan
from runctl.policy.launch_round import QuotaFacts, Round, judge
from runctl.policy.platforms import types_for

FIRST_BACKOFF = timedelta(seconds=30)
MAX_BACKOFF = timedelta(minutes=30)
# After a round in which EC2 throttled a request or failed, which says nothing about capacity.
FIRST_RETRY = timedelta(seconds=5)
MAX_RETRY_DELAY = timedelta(minutes=5)

_MAX_SHOWN = 3


@dataclass(frozen=True)
class GangRequest:
    """A request for machines of a gang: of one pool, in the placement group of its zone or not."""

    pool: Pool
    is_placed: bool


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The facts that are known when an attempt needs an instance.

    `attempts` are the run's earlier attempts in the order of their numbers. `asked` are the markets
    of the requests sent in this round, and `replayed` is that of an earlier request which was
    repeated first. `refusals` has EC2's error code for each pool that refused since, `denial` its
    reason if it rejected the request itself. `cooling` says until when a pool cools down, `prices`
    has USD an hour. `root_volumes` are those of the deployment's launch templates. Facts that the
    next step does not need may be missing.

    `gang` says whom a gang keeps and whom it lacks, None for a single machine. `tried` are the
    requests that were sent for it in this round; `is_unplaceable` says that EC2 rejected one
    because it names a placement group.

    `limits` are those of the deployment, and `running` is the number of its instances, without
    those of this run.
    """

    run: Run
    attempts: tuple[Attempt, ...]
    zones: tuple[str, ...]
    now: datetime
    asked: tuple[str, ...] = ()
    replayed: str = ""
    refusals: Mapping[Pool, str] = field(default_factory=dict)
    denial: str = ""
    cooling: Mapping[Pool, datetime] = field(default_factory=dict)
    prices: Mapping[Pool, Decimal] = field(default_factory=dict)
    quotas: QuotaFacts = field(default_factory=QuotaFacts)
    root_volumes: Mapping[MachineKind, RootVolume] = field(default_factory=dict)
    gang: GangPlan | None = None
    tried: tuple[GangRequest, ...] = ()
    is_unplaceable: bool = False
    limits: DeploymentLimits = field(default_factory=DeploymentLimits)
    running: int = 0

    @property
    def instance_types(self) -> tuple[str, ...]:
        """The types that the run may use and that can run its image."""
        image = self.run.image
        types = self.limits.allowed(self.run.request.resources.instance_types)
        return types_for(types, image.platform if image else "") or types

    @property
    def candidates(self) -> tuple[Pool, ...]:
        """All pools that the run accepts, the markets in their order."""
        request = self.run.request
        return candidate_pools(
            self.instance_types, self.zones, markets_of(request.resources.market)
        )


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Request an instance of any of `pools`, which are all of one market.

    `volumes` are the root volumes that differ from those of the launch templates. For a gang there
    is one pool, of which `count` machines are requested and at least `least` accepted, in the
    placement group of the zone if `is_placed`; `kept` are those that it has.
    """

    pools: tuple[Pool, ...]
    market: str
    reason: str
    volumes: Mapping[MachineKind, RootVolume] = field(default_factory=dict)
    count: int = 1
    least: int = 1
    is_placed: bool = False
    kept: tuple[KeptNode, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Request nothing: the attempt has enough machines with those that it keeps."""

    kept: tuple[KeptNode, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Request nothing before `until`; `retry_soon` if EC2 did not answer for some pools."""

    until: datetime
    reason: str
    retry_soon: bool = False


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """End the run: no later request would succeed. `reason` includes the remedy."""

    reason: str


Plan = Launch | Keep | Wait | Refuse


@dataclass(frozen=True, kw_only=True)
class LaunchPolicy:
    """A function that plans launches, and whether it needs prices, which take a call to EC2."""

    plan: Callable[[Observation], Plan]
    needs_prices: bool = False


def plan_launch(observed: Observation) -> Plan:
    """Ask one market of the run after the other, then wait, or refuse if waiting cannot help."""
    market = observed.run.request.resources.market
    if observed.denial:
        return Refuse(reason=f"the launch was refused: {observed.denial}")
    if not markets_of(market):
        return Refuse(
            reason=f"market: {market} is not known to this deployment; deploy the version of "
            "runctl that created the run"
        )
    following = next_market(observed)
    if following is None:
        return _after_round(observed)
    candidates = candidate_pools(observed.instance_types, observed.zones, [following])
    pools = choose_pools(candidates, cooling=observed.cooling)
    kinds = {machine_kind(pool.instance_type) for pool in pools}
    planned = plan_volumes(observed.run, observed.attempts, observed.root_volumes, kinds)
    reason = "; ".join(filter(None, (_explain(observed, pools, candidates), planned.reason)))
    return Launch(pools=pools, market=following, reason=reason, volumes=planned.volumes)


def next_market(observed: Observation) -> str | None:
    """Return the market to ask next, None after a round.

    The markets take turns, so that the one after a replayed request is another one.
    """
    markets = markets_of(observed.run.request.resources.market)
    if len(observed.asked) >= len(markets):
        return None
    last = observed.asked[-1] if observed.asked else observed.replayed
    return markets[(markets.index(last) + 1) % len(markets)] if last in markets else markets[0]


def _after_round(observed: Observation) -> Wait | Refuse:
    had_machine = any(
        attempt.was_launched and not attempt.is_on_existing_instance
        for attempt in observed.attempts
    )
    verdict = judge(
        Round(
            candidates=observed.candidates,
            refusals=observed.refusals,
            quotas=observed.quotas,
            had_machine=had_machine,
        )
    )
    if verdict.is_final:
        return Refuse(reason=verdict.reason)
    return Wait(
        until=observed.now + backoff(observed.attempts, retry_soon=verdict.retry_soon),
        reason=verdict.reason,
        retry_soon=verdict.retry_soon,
    )


def backoff(attempts: Sequence[Attempt], *, retry_soon: bool) -> timedelta:
    """Return how long to wait after `attempts` and one more that launched nothing.

    The time doubles with each such attempt of the same kind since the last instance: from 30 s to
    30 min if the pools had no capacity, from 5 s to 5 min if EC2 did not answer for some of them.
    """
    refused = itertools.takewhile(lambda attempt: not attempt.was_launched, reversed(attempts))
    same = sum(
        attempt.ended is None or attempt.ended.retry_soon == retry_soon for attempt in refused
    )
    if retry_soon:
        return _doubled(FIRST_RETRY, same, MAX_RETRY_DELAY)
    return _doubled(FIRST_BACKOFF, same, MAX_BACKOFF)


def _doubled(first: timedelta, times: int, longest: timedelta) -> timedelta:
    doubled: timedelta = first * 2 ** min(times, 16)
    return min(doubled, longest)


def remaining_wait(
    outcome: Outcome, earlier: Sequence[Attempt], *, policy: KindPolicy, now: datetime
) -> timedelta:
    """Return how long the launch of the next attempt waits after an attempt's outcome.

    `earlier` are the attempts before the one that ended. An outcome from an older version does not
    say until when the launch waits; then the wait starts now. A program that is restarted
    indefinitely waits longer each time in a row that it ended by itself.
    """
    if outcome.kind is OutcomeKind.NO_CAPACITY:
        until = outcome.retry_at or now + backoff(earlier, retry_soon=outcome.retry_soon)
        return max(until - now, timedelta(0))
    if policy.restarts_indefinitely and _ended_by_itself(outcome):
        row = itertools.takewhile(
            lambda attempt: _ended_by_itself(attempt.ended), reversed(earlier)
        )
        return _doubled(FIRST_RETRY, sum(1 for _ in row), MAX_RETRY_DELAY)
    return timedelta(0)


def _ended_by_itself(ended: Outcome | None) -> bool:
    return is_own_failure(ended) or (ended is not None and ended.kind is OutcomeKind.COMPLETED)


def _explain(observed: Observation, pools: Sequence[Pool], candidates: Sequence[Pool]) -> str:
    parts = [_count(pools)]
    if observed.asked or observed.replayed:
        parts.append(f"after {(observed.asked or (observed.replayed,))[-1]} launched nothing")
    requested = observed.run.request.resources.instance_types
    allowed = observed.limits.allowed(requested)
    if others := set(requested) - set(allowed):
        parts.append(f"{', '.join(sorted(others))} left out, which the deployment does not allow")
    if others := set(allowed) - set(observed.instance_types):
        parts.append(f"{', '.join(sorted(others))} left out, which cannot run the image")
    if left_out := [pool for pool in candidates if pool not in pools]:
        parts.append(f"{_count(left_out)} left out, cooling down")
    elif candidates and all(pool in observed.cooling for pool in candidates):
        parts.append("all of them cooling down")
    if known := {pool: observed.prices[pool] for pool in pools if pool in observed.prices}:
        cheapest = min(known, key=lambda pool: (known[pool], pool))
        parts.append(f"from ${known[cheapest]} an hour ({cheapest})")
    return "; ".join(parts)


def _count(pools: Sequence[Pool]) -> str:
    shown = ", ".join(map(str, pools[:_MAX_SHOWN]))
    more = len(pools) - _MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
