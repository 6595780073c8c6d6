# ruff: noqa: SLF001 - the one place that reads ministack's own records
"""The records that CloudFormation and the forwarded calls keep in ministack."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ministack.core import responses
from ministack.services import ec2, iam, kms

from runctl.local.core.protocol import ApiError


@dataclass(frozen=True)
class LaunchTemplate:
    """A version of a launch template."""

    template_id: str
    name: str
    version: int
    data: dict[str, Any]


@dataclass(frozen=True)
class Subnet:
    """The placement of an instance."""

    subnet_id: str
    zone: str
    zone_id: str
    vpc_id: str
    cidr: str


@dataclass(frozen=True)
class Profile:
    """An instance profile and its role."""

    arn: str
    profile_id: str
    role: str


def account_id() -> str:
    """Return the account of the request."""
    return str(responses.get_account_id())


def region() -> str:
    """Return the region of the request."""
    return str(responses.get_region())


@contextlib.contextmanager
def scope(account: str, region_name: str) -> Iterator[None]:
    """Act in an account and region outside a request."""
    with responses.request_scope(account, region_name):
        yield


def find_launch_template(spec: dict[str, Any]) -> LaunchTemplate:
    """Look up a launch template version, or refuse as EC2 does."""
    wanted_id, wanted_name = spec.get("LaunchTemplateId"), spec.get("LaunchTemplateName")
    if bool(wanted_id) == bool(wanted_name):
        raise ApiError("InvalidRequest", "A launch template is named by either its id or its name.")
    for record in ec2._launch_templates.values():
        if wanted_id in (record["LaunchTemplateId"], None) and wanted_name in (
            record["LaunchTemplateName"],
            None,
        ):
            return _version(record, spec.get("Version", "$Default"))
    if wanted_id:
        raise ApiError(
            "InvalidLaunchTemplateId.NotFound",
            f"The specified launch template, with template ID {wanted_id}, does not exist.",
        )
    raise ApiError(
        "InvalidLaunchTemplateName.NotFoundException",
        f"The specified launch template, with template name {wanted_name}, does not exist.",
    )


def _version(record: dict[str, Any], wanted: str) -> LaunchTemplate:
    number = {
        "$Default": record.get("DefaultVersionNumber", 1),
        "$Latest": record.get("LatestVersionNumber", 1),
    }.get(wanted, wanted)
    for version in record["Versions"]:
        if str(version["VersionNumber"]) == str(number):
            return LaunchTemplate(
                template_id=record["LaunchTemplateId"],
                name=record["LaunchTemplateName"],
                version=int(version["VersionNumber"]),
                data=version["LaunchTemplateData"],
            )
    raise ApiError(
        "InvalidLaunchTemplateId.VersionNotFound",
        f"Could not find launch template version {wanted}.",
    )


def find_subnet(subnet_id: str) -> Subnet:
    """Look up a subnet, or refuse as EC2 does."""
    ec2._ensure_defaults_initialized()
    record = ec2._subnets.get(subnet_id)
    if record is None:
        raise ApiError("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")
    return _subnet(record)


def find_default_subnet(zone: str) -> Subnet:
    """Look up a zone's default subnet, or refuse as EC2 does."""
    ec2._ensure_defaults_initialized()
    for record in ec2._subnets.values():
        if record["AvailabilityZone"] == zone and record.get("DefaultForAz"):
            return _subnet(record)
    raise ApiError("InvalidInput", f"There is no default subnet in zone '{zone}'.")


def _subnet(record: dict[str, Any]) -> Subnet:
    zone = record["AvailabilityZone"]
    return Subnet(
        subnet_id=record["SubnetId"],
        zone=zone,
        zone_id=record.get("AvailabilityZoneId") or ec2._az_id_for_zone_name(zone),
        vpc_id=record["VpcId"],
        cidr=record["CidrBlock"],
    )


def zones() -> list[str]:
    """List the zones that have subnets."""
    ec2._ensure_defaults_initialized()
    return sorted({record["AvailabilityZone"] for record in ec2._subnets.values()})


def placement_strategy(name: str) -> str | None:
    """Return the strategy of a placement group; None if there is no such group."""
    record = ec2._placement_groups.get(name)
    return None if record is None else str(record["Strategy"])


def find_profile(spec: dict[str, Any]) -> Profile:
    """Look up an instance profile, or refuse as EC2 does."""
    record = iam._lookup_instance_profile(name=spec.get("Name", ""), arn=spec.get("Arn", ""))
    if record is None:
        kind = "name" if spec.get("Name") else "arn"
        raise ApiError(
            "InvalidParameterValue",
            f"Value ({spec.get('Name') or spec.get('Arn')}) for parameter iamInstanceProfile.{kind}"
            " is invalid. Invalid IAM Instance Profile",
        )
    if not record["Roles"]:
        raise ApiError(
            "InvalidParameterValue", f"The instance profile {record['Arn']} has no role."
        )
    role = record["Roles"][0]
    return Profile(
        arn=record["Arn"],
        profile_id=record["InstanceProfileId"],
        role=role["RoleName"] if isinstance(role, dict) else str(role),
    )


@dataclass(frozen=True)
class Key:
    """A KMS key, its state in KMS's words, and its names."""

    arn: str
    state: str
    aliases: tuple[str, ...]


def find_key(name: str) -> Key | None:
    """Look up a KMS key by its id, an alias, or the ARN of either."""
    record = kms._resolve_key(name)
    if record is None:
        return None
    aliases = (
        str(alias).rpartition(":")[2]
        for alias, key_id in kms._aliases.items()
        if key_id == record["KeyId"]
    )
    return Key(arn=record["Arn"], state=record["KeyState"], aliases=tuple(aliases))


SPOT_ROLE = "AWSServiceRoleForEC2Spot"


def has_spot_role() -> bool:
    """Return whether the account has the service-linked role that spot launches need."""
    return SPOT_ROLE in iam._roles


def create_spot_role() -> None:
    """Create what the account's first spot launch creates."""
    if not has_spot_role():
        service = "spot.amazonaws.com"
        path = f"/aws-service-role/{service}/"
        iam._create_service_linked_role({"AWSServiceName": [service]})
        made = iam._roles.pop("AWSServiceRoleForSpot")  # ministack's guess at the name
        arn = f"arn:aws:iam::{account_id()}:role{path}{SPOT_ROLE}"
        iam._roles[SPOT_ROLE] = {**made, "RoleName": SPOT_ROLE, "Arn": arn}


def role_arn(name: str) -> str:
    """Return the ARN of a role."""
    record = iam._roles.get(name)
    return str(record["Arn"]) if record else f"arn:aws:iam::{account_id()}:role/{name}"


def has_role(name: str) -> bool:
    """Return whether there is a role of this name."""
    return name in iam._roles


def trust_policy(role: str) -> list[dict[str, Any]]:
    """Return the statements of a role's trust policy; none if there is no such role."""
    found = iam._roles.get(role, {}).get("AssumeRolePolicyDocument") or {}
    document = json.loads(found) if isinstance(found, str) else found
    statements = document.get("Statement", [])
    return statements if isinstance(statements, list) else [statements]


def tags_of(resource_id: str) -> dict[str, str]:
    """Return the tags of a resource that ministack keeps."""
    return {tag["Key"]: tag["Value"] for tag in ec2._tags.get(resource_id, [])}


def set_tags(resource_id: str, tags: dict[str, str]) -> None:
    """Store an instance's tags where ministack's own tag calls find them."""
    ec2._tags[resource_id] = [{"Key": key, "Value": value} for key, value in tags.items()]
