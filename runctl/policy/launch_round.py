"""Rounds of launch requests that launched nothing: whether waiting can help, and why not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runctl.model.pool import UNKNOWN, Pool
from runctl.model.quota import VcpuQuota, console, quota_of
from runctl.model.refusal import RefusalKind, kind_of

MAX_POOLS_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class QuotaFacts:
    """The facts that were looked up about the quotas that refused.

    `allowed` has the value of each quota in vCPUs, None if it could not be read. `vcpus` has the
    vCPUs of an instance of each type, as far as they are known.
    """

    region: str = ""
    allowed: Mapping[VcpuQuota, int | None] = field(default_factory=dict)
    vcpus: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One request to each market of a run, none of which launched an instance.

    `candidates` are all pools that the run accepts, `refusals` the error codes of those that
    refused. `had_machine` says that EC2 has launched an instance for the run before. `nodes` is the
    number of instances that it needs at the same time.
    """

    candidates: tuple[Pool, ...]
    refusals: Mapping[Pool, str]
    quotas: QuotaFacts = field(default_factory=QuotaFacts)
    had_machine: bool = False
    nodes: int = 1


@dataclass(frozen=True, kw_only=True)
class RoundVerdict:
    """The conclusion from a round: whether it is final, and whether to try again soon."""

    is_final: bool
    reason: str
    retry_soon: bool = False


def refused_quotas(candidates: Sequence[Pool], refusals: Mapping[Pool, str]) -> list[VcpuQuota]:
    """Return the quotas that prevented a launch, as far as they are known."""
    pools = [
        pool
        for pool in candidates
        if any(
            kind_of(code) is RefusalKind.QUOTA and _is_about(refusing, pool)
            for refusing, code in refusals.items()
        )
    ]
    found = [quota_of(pool.instance_type, pool.market) for pool in pools]
    return [quota for quota in dict.fromkeys(found) if quota is not None]


def judge(asked: Round) -> RoundVerdict:
    """Return whether waiting can help after a round that launched nothing.

    It cannot if for every pool that the run accepts either the zone does not offer the type, or
    the quota is smaller than the nodes, and EC2 gave no other reason. A quota whose value is not
    known is never final.
    """
    kinds = {kind_of(code) for code in asked.refusals.values()}
    unsupported = {pool for pool in asked.candidates if _is_unsupported(asked, pool)}
    beyond_quota = {pool for pool in asked.candidates if _is_beyond_quota(asked, pool)}
    # EC2 also calls a type unsupported for temporary reasons. A type that it launched before
    # exists.
    is_final = (
        bool(kinds)
        and kinds <= {RefusalKind.UNSUPPORTED, RefusalKind.QUOTA}
        and unsupported | beyond_quota == set(asked.candidates)
        and not (unsupported and asked.had_machine)
    )
    if is_final:
        reasons = [*_explain_unsupported(unsupported - beyond_quota), *_explain_quotas(asked)]
        return RoundVerdict(
            is_final=True,
            reason=f"the launch was refused, and waiting will not help: {'; '.join(reasons)}",
        )
    shown = [f"{pool}: {code}" for pool, code in list(asked.refusals.items())[:MAX_POOLS_SHOWN]]
    if left := len(asked.refusals) - len(shown):
        shown.append(f"{left} more pool{'s' if left != 1 else ''}")
    return RoundVerdict(
        is_final=False,
        reason="; ".join([*shown, *_explain_quotas(asked)]),
        retry_soon=any(not kind.is_answer for kind in kinds),
    )


def _is_about(refusing: Pool, pool: Pool) -> bool:
    """Return whether a refusal concerns a pool; EC2 may leave out the type or the zone."""
    return (
        refusing.market == pool.market
        and refusing.instance_type in {UNKNOWN, pool.instance_type}
        and refusing.zone in {UNKNOWN, pool.zone}
    )


def _is_unsupported(asked: Round, pool: Pool) -> bool:
    return any(
        kind_of(code) is RefusalKind.UNSUPPORTED and _is_about(refusing, pool)
        for refusing, code in asked.refusals.items()
    )


def _is_beyond_quota(asked: Round, pool: Pool) -> bool:
    quota = quota_of(pool.instance_type, pool.market)
    allowed = None if quota is None else asked.quotas.allowed.get(quota)
    needed = asked.nodes * asked.quotas.vcpus.get(pool.instance_type, 1)
    return allowed is not None and allowed < needed


def _explain_unsupported(pools: set[Pool]) -> Iterator[str]:
    if not pools:
        return
    types = _listed({pool.instance_type for pool in pools})
    zones = _listed({pool.zone for pool in pools})
    markets = _listed({pool.market for pool in pools})
    yield (
        f"EC2 does not offer {types} in {zones} ({markets}); it says the same about a misspelled "
        "type: check the name with `aws ec2 describe-instance-type-offerings --location-type "
        "availability-zone`, name other types, or deploy into zones that have it"
    )


def _explain_quotas(asked: Round) -> Iterator[str]:
    known = refused_quotas(asked.candidates, asked.refusals)
    for quota in known:
        yield _explain_quota(asked, quota)
    codes = {kind_of(code): code for code in asked.refusals.values()}
    if RefusalKind.FLEETS in codes:
        yield f"the account has too many EC2 fleets; see {console(asked.quotas.region)}"
    elif RefusalKind.QUOTA in codes and not known:
        yield f"a quota of the account is used up; see {console(asked.quotas.region)}"


def _explain_quota(asked: Round, quota: VcpuQuota) -> str:
    types = {
        pool.instance_type
        for pool in asked.candidates
        if quota_of(pool.instance_type, pool.market) == quota
    }
    facts = asked.quotas
    sizes = sorted((facts.vcpus[name], name) for name in types if name in facts.vcpus)
    need = _need(*sizes[0], asked.nodes) if sizes else f"some for {_listed(types)}"
    allowed, link = facts.allowed.get(quota), quota.console(facts.region)
    if allowed is None:
        return (
            f"quota {quota} in {facts.region} is not sufficient; its value could not be read, and "
            f"the run needs {need}; see {link}"
        )
    says = f"quota {quota} is {allowed} vCPUs in {facts.region}, and the run needs {need}"
    if allowed < asked.nodes * (sizes[0][0] if sizes else 1):
        fewer = ", or fewer nodes" if asked.nodes > 1 else ""
        return f"{says}; request a higher quota at {link}, or name types of other families{fewer}"
    return f"{says}: other instances use it up; end some, or request a higher quota at {link}"


def _need(vcpus: int, instance_type: str, nodes: int) -> str:
    if nodes == 1:
        return f"{vcpus} vCPUs for {instance_type}"
    return f"{nodes * vcpus} vCPUs for {nodes} nodes of {instance_type}, {vcpus} each"


def _listed(names: set[str]) -> str:
    *others, last = sorted(names)
    return f"{', '.join(others)} and {last}" if others else last
