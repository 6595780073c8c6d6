"""A round of launch requests that gave no machine: whether to wait, for how long, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import UNKNOWN, Pool
from runctl.model.quota import VcpuQuota, console, quota_of
from runctl.model.refusal import RefusalKind, kind_of

MAX_POOLS_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Round:
    """What was asked in a round, over all markets of the run, and what is known about the answers.

    `candidates` are all pools that the run accepts, `refusals` the code of each that refused.
    `allowed` has the value in vCPUs of each quota that was looked up, None where it could not be
    read; `vcpus` has how many an instance of a type takes, as far as EC2 said. `had_machine` is set
    when EC2 has given the run a machine before.
    """

    candidates: tuple[Pool, ...]
    refusals: Mapping[Pool, str]
    region: str = ""
    allowed: Mapping[VcpuQuota, int | None] = field(default_factory=dict)
    vcpus: Mapping[str, int] = field(default_factory=dict)
    had_machine: bool = False


def refused_quotas(candidates: Sequence[Pool], refusals: Mapping[Pool, str]) -> list[VcpuQuota]:
    """Return the quotas that stood in the way of a launch, as far as they are known."""
    pools = [
        pool
        for pool in candidates
        if any(
            kind_of(code) is RefusalKind.QUOTA and _is_about(refusing, pool)
            for refusing, code in refusals.items()
        )
    ]
    found = [quota_of(pool.instance_type, pool.market) for pool in pools]
    return [one for one in dict.fromkeys(found) if one is not None]


def settle(asked: Round) -> Outcome:
    """Return the outcome of an attempt that got no machine.

    It has failed, and with it the run, when waiting cannot help: when each pool that the run
    accepts is one whose zone lacks the type, or one of a quota that is smaller than the type, and
    EC2 said nothing else. A quota whose value is not known ends nothing.
    """
    kinds = {kind_of(code) for code in asked.refusals.values()}
    unsupported = {pool for pool in asked.candidates if _is_unsupported(asked, pool)}
    beyond_quota = {pool for pool in asked.candidates if _is_beyond_quota(asked, pool)}
    # EC2 also calls a type unsupported for other reasons, for a while. One that it gave before
    # exists.
    is_over = (
        bool(kinds)
        and kinds <= {RefusalKind.UNSUPPORTED, RefusalKind.QUOTA}
        and unsupported | beyond_quota == set(asked.candidates)
        and not (unsupported and asked.had_machine)
    )
    if is_over:
        reasons = [*_explain_unsupported(unsupported - beyond_quota), *_explain_quotas(asked)]
        return Outcome(
            kind=OutcomeKind.FAILED,
            reason=f"the launch was refused, and waiting will not help: {'; '.join(reasons)}",
        )
    shown = [f"{pool}: {code}" for pool, code in list(asked.refusals.items())[:MAX_POOLS_SHOWN]]
    if left := len(asked.refusals) - len(shown):
        shown.append(f"{left} more pools")
    return Outcome(
        kind=OutcomeKind.NO_CAPACITY,
        reason="; ".join([*shown, *_explain_quotas(asked)]),
        retry_soon=any(not kind.is_answer for kind in kinds),
    )


def _is_about(refusing: Pool, pool: Pool) -> bool:
    """Whether a refusal concerns a pool; EC2 may leave out the type or the zone."""
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
    allowed = None if quota is None else asked.allowed.get(quota)
    return allowed is not None and allowed < asked.vcpus.get(pool.instance_type, 1)


def _explain_unsupported(pools: set[Pool]) -> Iterator[str]:
    if not pools:
        return
    types = _listed({pool.instance_type for pool in pools})
    zones = _listed({pool.zone for pool in pools})
    markets = _listed({pool.market for pool in pools})
    yield (
        f"EC2 does not offer {types} in {zones} ({markets}); it says the same of a misspelled "
        "type: check the name with `aws ec2 describe-instance-type-offerings --location-type "
        "availability-zone`, name other types, or deploy into zones that have it"
    )


def _explain_quotas(asked: Round) -> Iterator[str]:
    known = refused_quotas(asked.candidates, asked.refusals)
    for quota in known:
        yield _explain_quota(asked, quota)
    codes = {kind_of(code): code for code in asked.refusals.values()}
    if RefusalKind.FLEETS in codes:
        yield f"the account has too many EC2 fleets; see {console(asked.region)}"
    elif RefusalKind.QUOTA in codes and not known:
        yield f"a quota of the account is used up; see {console(asked.region)}"


def _explain_quota(asked: Round, quota: VcpuQuota) -> str:
    types = {
        pool.instance_type
        for pool in asked.candidates
        if quota_of(pool.instance_type, pool.market) == quota
    }
    sizes = sorted((asked.vcpus[kind], kind) for kind in types if kind in asked.vcpus)
    need = f"{sizes[0][0]} vCPUs for {sizes[0][1]}" if sizes else f"some for {_listed(types)}"
    allowed, link = asked.allowed.get(quota), quota.console(asked.region)
    if allowed is None:
        return (
            f"quota {quota} in {asked.region} does not suffice; its value could not be read, and "
            f"the run needs {need}; see {link}"
        )
    says = f"quota {quota} is {allowed} vCPUs in {asked.region}, and the run needs {need}"
    if allowed < (sizes[0][0] if sizes else 1):
        return f"{says}; ask for a higher quota at {link}, or name types of other families"
    return f"{says}: other instances use it up; end some, or ask for a higher quota at {link}"


def _listed(names: set[str]) -> str:
    *others, last = sorted(names)
    return f"{', '.join(others)} and {last}" if others else last
