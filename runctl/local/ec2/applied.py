"""The parameters that the local cloud applies; it refuses those that it would ignore.

A parameter stands for all that is below it. `DEFAULTS` are values that change nothing, on AWS
neither, so that they may be given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runctl.local.core.protocol import ApiError

_OPTIONS = ("AllocationStrategy", "SingleInstanceType", "SingleAvailabilityZone",
            "MinTargetCapacity")  # fmt: skip
_OVERRIDES = ("InstanceType", "MaxPrice", "SubnetId", "AvailabilityZone", "WeightedCapacity",
              "Priority", "BlockDeviceMappings", "IamInstanceProfile", "MetadataOptions", "ImageId",
              "Placement.AvailabilityZone", "Placement.GroupName")  # fmt: skip
_PAGES = frozenset({"MaxResults", "NextToken"})
_LISTS = _PAGES | {"Filters"}

_EC2: Mapping[str, frozenset[str]] = {
    "CreateFleet": frozenset(
        {
            "Type",
            "ClientToken",
            "TagSpecifications",
            "LaunchTemplateConfigs.LaunchTemplateSpecification.LaunchTemplateId",
            "LaunchTemplateConfigs.LaunchTemplateSpecification.LaunchTemplateName",
            "LaunchTemplateConfigs.LaunchTemplateSpecification.Version",
            *(f"LaunchTemplateConfigs.Overrides.{name}" for name in _OVERRIDES),
            *(f"SpotOptions.{name}" for name in _OPTIONS),
            *(f"OnDemandOptions.{name}" for name in _OPTIONS),
            "TargetCapacitySpecification.TotalTargetCapacity",
            "TargetCapacitySpecification.SpotTargetCapacity",
            "TargetCapacitySpecification.OnDemandTargetCapacity",
            "TargetCapacitySpecification.DefaultTargetCapacityType",
            # Refused by a check that gives the reason.
            "SpotOptions.MaintenanceStrategies",
        }
    ),
    # Only as a dry run.
    "RunInstances": frozenset(
        {
            "LaunchTemplate.LaunchTemplateId",
            "LaunchTemplate.Version",
            "InstanceType",
            "SubnetId",
            "NetworkInterfaces",
            "MinCount",
            "MaxCount",
            "ClientToken",
        }
    ),
    "DescribeFleets": _PAGES | {"FleetIds"},
    "DeleteFleets": frozenset({"FleetIds", "TerminateInstances"}),
    "DescribeTags": _LISTS,
    "DescribeVolumes": _LISTS | {"VolumeIds"},
    "DeleteVolume": frozenset({"VolumeId"}),
    "DescribeInstances": _LISTS | {"InstanceIds"},
    "DescribeInstanceStatus": _LISTS | {"InstanceIds", "IncludeAllInstances"},
    "TerminateInstances": frozenset({"InstanceIds", "Force", "SkipOsShutdown"}),
    # There is only the newest output.
    "GetConsoleOutput": frozenset({"InstanceId", "Latest"}),
    "DescribeSpotPriceHistory": _LISTS
    | {"StartTime", "EndTime", "InstanceTypes", "AvailabilityZone", "ProductDescriptions"},
    "DescribeInstanceTypeOfferings": _LISTS | {"LocationType"},
    "DescribeInstanceTypes": _LISTS | {"InstanceTypes"},
    "DescribeImages": frozenset({"ImageIds", "IncludeDeprecated"}),
    "GetEbsDefaultKmsKeyId": frozenset(),
    "ModifyEbsDefaultKmsKeyId": frozenset({"KmsKeyId"}),
    "CreateTags": frozenset({"Resources", "Tags"}),
    "DeleteTags": frozenset({"Resources", "Tags"}),
}
_SSM: Mapping[str, frozenset[str]] = {
    "SendCommand": frozenset(
        {"InstanceIds", "Targets", "DocumentName", "TimeoutSeconds", "Comment", "Parameters"}
    ),
    "GetCommandInvocation": frozenset({"CommandId", "InstanceId", "PluginName"}),
    "ListCommandInvocations": _PAGES | {"CommandId", "InstanceId"},
    "ListCommands": _PAGES | {"CommandId", "InstanceId"},
    "DescribeInstanceInformation": _PAGES | {"Filters", "InstanceInformationFilterList"},
    "StartSession": frozenset({"Target", "DocumentName", "Parameters"}),
    "TerminateSession": frozenset({"SessionId"}),
    # Public parameters are not encrypted.
    "GetParameter": frozenset({"Name", "WithDecryption"}),
    "GetParameters": frozenset({"Names", "WithDecryption"}),
}
# The settings that a launch template may contain. Those of the second line concern features that
# the local cloud lacks; see docs/reference/local-cloud.md.
_TEMPLATE = frozenset(
    {
        "ImageId", "InstanceType", "UserData", "IamInstanceProfile", "SecurityGroupIds",
        "NetworkInterfaces", "BlockDeviceMappings", "MetadataOptions", "TagSpecifications",
        "InstanceInitiatedShutdownBehavior", "Placement.AvailabilityZone",
        "Placement.GroupName",
        "InstanceMarketOptions.MarketType", "InstanceMarketOptions.SpotOptions.MaxPrice",
        "Monitoring", "EbsOptimized", "DisableApiStop", "DisableApiTermination",
    }
)  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "SpotOptions.InstanceInterruptionBehavior": "terminate",
    "TerminateInstancesWithExpiration": False,
    "ReplaceUnhealthyInstances": False,
    "TargetCapacitySpecification.TargetCapacityUnitType": "units",
    "LaunchTemplateConfigs.Overrides.Placement.Tenancy": "default",
    "Placement.Tenancy": "default",
    "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
    "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate",
    "IncludeManagedResources": False,
    "IncludeUnsupportedInRegion": False,
    "Details": False,
}
_REFUSED_AS = {"ec2": "UnsupportedOperation", "ssm": "ValidationException"}


def check_applied(service: str, action: str, request: Mapping[str, Any]) -> None:
    """Refuse a request with a parameter that AWS would apply and the local cloud does not."""
    applied = {"ec2": _EC2, "ssm": _SSM}[service].get(action, frozenset())
    _check(request, applied, f"{action}'s", _REFUSED_AS[service])


def check_template(template_id: str, data: Mapping[str, Any]) -> None:
    """Refuse a launch from a template with a setting that the local cloud does not apply."""
    _check(data, _TEMPLATE, f"launch template {template_id}'s", _REFUSED_AS["ec2"])


def _check(given: Mapping[str, Any], applied: frozenset[str], whose: str, code: str) -> None:
    for path, value in _leaves(given, ""):
        if any(path == known or path.startswith(f"{known}.") for known in applied):
            continue
        if path in DEFAULTS and DEFAULTS[path] == value:
            continue
        raise ApiError(
            code, f"The local cloud does not apply {whose} {path}: leave it out ({value!r})."
        )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, below in value.items():
            yield from _leaves(below, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for below in value:
            yield from _leaves(below, path)
    elif value not in ({}, [], None):
        yield path, value
