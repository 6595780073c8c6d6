"""DescribeInstanceStatus: the checks of instances and their scheduled events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runctl.local.core.instance import STATE_CODES, Instance
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.filters import check_filters, filters_of, matches

if TYPE_CHECKING:
    from runctl.local.core.instance import Maintenance

# The call has no filter by instance: those are named by InstanceIds.
_FILTERS: Mapping[str, Callable[[Instance], list[str]]] = {
    "availability-zone": lambda one: [one.zone],
    "instance-state-code": lambda one: [str(STATE_CODES[one.state])],
    "instance-state-name": lambda one: [one.state],
    "instance-status.status": lambda one: [_status(one, "instance")],
    "system-status.status": lambda one: [_status(one, "system")],
    "attached-ebs-status.status": lambda one: [_status(one, "ebs")],
    "event.code": lambda one: [event.code for event in one.maintenance],
}
_MAX_INSTANCE_IDS = 100


def describe_statuses(found: list[Instance], request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the statuses of those that a request asks for."""
    filters = filters_of(request)
    check_filters(filters, known=_FILTERS)
    if len(request.get("InstanceIds", [])) > _MAX_INSTANCE_IDS:
        raise ApiError(
            "InvalidParameterValue", f"There are more than {_MAX_INSTANCE_IDS} instance IDs"
        )
    if "InstanceIds" in request and "MaxResults" in request:
        raise ApiError(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )
    return [
        _described(one)
        for one in found
        if (request.get("IncludeAllInstances") or one.state == "running")
        and all(
            any(matches(value, values) for value in _FILTERS[name](one))
            for name, values in filters.items()
        )
    ]


def _described(one: Instance) -> dict[str, Any]:
    return {
        "InstanceId": one.instance_id,
        "AvailabilityZone": one.zone,
        "InstanceState": {"Code": STATE_CODES[one.state], "Name": one.state},
        "InstanceStatus": _summary(one, "instance"),
        "SystemStatus": _summary(one, "system"),
        "AttachedEbsStatus": _summary(one, "ebs"),
        "Events": [_event(event) for event in one.maintenance] or None,
    }


def _status(one: Instance, check: str) -> str:
    if one.state != "running":
        return "not-applicable"
    return "impaired" if check in one.impaired else "ok"


def _summary(one: Instance, check: str) -> dict[str, Any]:
    status = _status(one, check)
    if status == "not-applicable":
        return {"Status": status}
    since: datetime | None = one.impaired.get(check)
    detail = {"Name": "reachability", "Status": "failed" if since else "passed"}
    return {
        "Status": status,
        "Details": [{**detail, **({"ImpairedSince": since} if since else {})}],
    }


def _event(event: Maintenance) -> dict[str, Any]:
    # One that is over is described for up to a week.
    prefix = "" if event.state == "active" else f"[{event.state.capitalize()}] "
    return {
        "InstanceEventId": event.event_id,
        "Code": event.code,
        "Description": prefix + event.description,
        "NotBefore": event.not_before,
        "NotAfter": event.not_after,
    }
