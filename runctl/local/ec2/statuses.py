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
    "availability-zone": lambda instance: [instance.zone],
    "instance-state-code": lambda instance: [str(STATE_CODES[instance.state])],
    "instance-state-name": lambda instance: [instance.state],
    "instance-status.status": lambda instance: [_status(instance, "instance")],
    "system-status.status": lambda instance: [_status(instance, "system")],
    "attached-ebs-status.status": lambda instance: [_status(instance, "ebs")],
    "event.code": lambda instance: [event.code for event in instance.maintenance],
}
_MAX_INSTANCE_IDS = 100


def describe_statuses(found: list[Instance], request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the statuses of the instances that a request selects."""
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
        _described(instance)
        for instance in found
        if (request.get("IncludeAllInstances") or instance.state == "running")
        and all(
            any(matches(value, values) for value in _FILTERS[name](instance))
            for name, values in filters.items()
        )
    ]


def _described(instance: Instance) -> dict[str, Any]:
    return {
        "InstanceId": instance.instance_id,
        "AvailabilityZone": instance.zone,
        "InstanceState": {"Code": STATE_CODES[instance.state], "Name": instance.state},
        "InstanceStatus": _summary(instance, "instance"),
        "SystemStatus": _summary(instance, "system"),
        "AttachedEbsStatus": _summary(instance, "ebs"),
        "Events": [_event(event) for event in instance.maintenance] or None,
    }


def _status(instance: Instance, check: str) -> str:
    if instance.state != "running":
        return "not-applicable"
    return "impaired" if check in instance.impaired else "ok"


def _summary(instance: Instance, check: str) -> dict[str, Any]:
    status = _status(instance, check)
    if status == "not-applicable":
        return {"Status": status}
    since: datetime | None = instance.impaired.get(check)
    detail = {"Name": "reachability", "Status": "failed" if since else "passed"}
    return {
        "Status": status,
        "Details": [{**detail, **({"ImpairedSince": since} if since else {})}],
    }


def _event(event: Maintenance) -> dict[str, Any]:
    # A past event is described for up to a week.
    prefix = "" if event.state == "active" else f"[{event.state.capitalize()}] "
    return {
        "InstanceEventId": event.event_id,
        "Code": event.code,
        "Description": prefix + event.description,
        "NotBefore": event.not_before,
        "NotAfter": event.not_after,
    }
