"""EC2's answers to CreateFleet: what was launched, which pools refused, and fatal errors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, meaning_of
from runctl.model.errors import QuotaError, RefusedError
from runctl.model.machine import LaunchResult
from runctl.model.pool import UNKNOWN, Pool
from runctl.model.refusal import THROTTLING, RefusalKind, fatal_code, kind_of

# Errors of a whole call that count as refusals of every requested pool: those that may pass, and
# unlisted codes. All others concern the request.
_REFUSE_ALL_POOLS = frozenset(
    {
        RefusalKind.CAPACITY,
        RefusalKind.PRICE,
        RefusalKind.ADDRESSES,
        RefusalKind.QUOTA,
        RefusalKind.FLEETS,
        RefusalKind.UNKNOWN,
    }
)


def read_answer(
    answer: Mapping[str, Any], document: Mapping[str, Any], *, zones: Mapping[str, str]
) -> LaunchResult:
    """Read the answer to the request `document`; `zones` has the zone of each subnet.

    Raises what the errors mean if nothing was launched and no later request would succeed.
    """
    market = _market(document)
    ids: list[str] = []
    pool = None
    for group in answer.get("Instances", []):
        ids += group["InstanceIds"]
        pool = _pool(group, market, zones)
    errors = answer.get("Errors", [])
    if not ids:
        _raise_fatal(errors)
    return LaunchResult(
        instance_ids=tuple(ids),
        pool=pool,
        refusals={_pool(error, market, zones): error.get("ErrorCode", "") for error in errors},
        market=market,
        fleet_id=answer.get("FleetId", ""),
    )


def refused_call(
    exc: ClientError, document: Mapping[str, Any], *, zones: Mapping[str, str]
) -> LaunchResult:
    """Read the error of a whole call as a refusal of every pool; raise what concerns no pool.

    After throttling EC2 has launched nothing, but after a fault it may have: only repeating the
    request reveals that, so a fault is raised as TransientError.
    """
    code, message = code_of(exc), exc.response.get("Error", {}).get("Message", "")
    meaning = meaning_of(code, message)
    is_about_pools = kind_of(code) in _REFUSE_ALL_POOLS and (
        meaning is None or isinstance(meaning, QuotaError)
    )
    if code in THROTTLING or is_about_pools:
        refusals = dict.fromkeys(_asked_pools(document, zones), code)
        return LaunchResult(instance_ids=(), pool=None, refusals=refusals, market=_market(document))
    # It concerns the request as a whole, which waiting does not change.
    raise meaning or _refused_launch(code, message) from exc


def _asked_pools(document: Mapping[str, Any], zones: Mapping[str, str]) -> Iterator[Pool]:
    for config in document["LaunchTemplateConfigs"]:
        for override in config["Overrides"]:
            zone = zones.get(override["SubnetId"], UNKNOWN)
            yield Pool(override["InstanceType"], zone, _market(document))


def _market(document: Mapping[str, Any]) -> str:
    return str(document["TargetCapacitySpecification"]["DefaultTargetCapacityType"])


def _pool(entry: Mapping[str, Any], market: str, zones: Mapping[str, str]) -> Pool:
    """Return the pool that an entry of the answer is about, as far as it is known.

    An error that concerns the whole request names no override, and a stored request may name
    subnets that the deployment has since replaced.
    """
    overrides = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    zone = overrides.get("AvailabilityZone") or zones.get(overrides.get("SubnetId", ""))
    kind = overrides.get("InstanceType") or entry.get("InstanceType")
    return Pool(kind or UNKNOWN, zone or UNKNOWN, market)


def _raise_fatal(errors: Sequence[Mapping[str, Any]]) -> None:
    messages = {error.get("ErrorCode", ""): error.get("ErrorMessage", "") for error in errors}
    code = fatal_code(messages)
    if code is not None:
        raise meaning_of(code, messages[code]) or _refused_launch(code, messages[code])


def _refused_launch(code: str, message: str) -> RefusedError:
    return RefusedError(f"EC2 refuses to launch: {message.rstrip('.')} ({code})")
