"""An unusable key of a volume ends the instance after its launch, as on EC2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.clouds import ZONES, Cloud
from tests.local.test_iam import allow

USES = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)
THROUGH = {"kms:ViaService": "ec2.us-east-1.amazonaws.com"}


def with_key(key: str) -> list[dict[str, Any]]:
    """Return the overrides of a launch whose root volume has the key."""
    root = {"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": True, "KmsKeyId": key}}
    place = {"InstanceType": "m5.large", "AvailabilityZone": ZONES[0]}
    return [{**place, "BlockDeviceMappings": [root]}]


def end_of(cloud: Cloud, instance_id: str) -> str:
    cloud.admin.wait_for_state(instance_id, "terminated")
    code: str = cloud.describe(instance_id)["StateReason"]["Code"]
    return code


def new_key(cloud: Cloud) -> tuple[str, str]:
    made = cloud.client("kms").create_key()["KeyMetadata"]
    return made["KeyId"], made["Arn"]


@pytest.mark.parametrize("name", ["id", "arn", "alias", "alias/aws/ebs"])
def test_an_instance_whose_key_can_be_used_runs(cloud: Cloud, name: str) -> None:
    key_id, arn = new_key(cloud)
    if name == "alias":
        cloud.client("kms").create_alias(AliasName="alias/disks", TargetKeyId=key_id)
    key = {"id": key_id, "arn": arn, "alias": "alias/disks"}.get(name, name)
    instance_id = cloud.launch(overrides=with_key(key))
    cloud.admin.wait_for_state(instance_id, "running")


def test_a_key_that_does_not_exist_ends_it(cloud: Cloud) -> None:
    key = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    instance_id = cloud.launch(overrides=with_key(key))
    assert end_of(cloud, instance_id) == "Client.InternalError"


def test_a_key_that_is_not_enabled_ends_it(cloud: Cloud) -> None:
    key_id, _ = new_key(cloud)
    cloud.client("kms").disable_key(KeyId=key_id)
    instance_id = cloud.launch(overrides=with_key(key_id))
    assert end_of(cloud, instance_id) == "Client.InvalidKMSKey.InvalidState"


@pytest.mark.parametrize("lacks", ["", "kms:CreateGrant", "kms:Decrypt"])
def test_the_launching_caller_needs_permission_for_the_key(strict_cloud: Cloud, lacks: str) -> None:
    key_id, arn = new_key(strict_cloud)
    grant = allow(
        "kms:CreateGrant",
        resource=arn,
        StringEquals=THROUGH,
        Bool={"kms:GrantIsForAWSResource": "true"},
    )
    uses = [allow(action, resource=arn, StringEquals=THROUGH) for action in USES if action != lacks]
    role = strict_cloud.role(
        *(allow(action) for action in ("ec2:*", "iam:*", "ssm:*")),
        *uses,
        *([] if lacks == "kms:CreateGrant" else [grant]),
    )
    request = strict_cloud.fleet_request(strict_cloud.template(), overrides=with_key(key_id))
    got = strict_cloud.client("ec2", **strict_cloud.assume(role)).create_fleet(**request)
    assert got["Errors"] == []
    (instance_id,) = got["Instances"][0]["InstanceIds"]
    if lacks:
        assert end_of(strict_cloud, instance_id) == "Client.InternalError"
    else:
        strict_cloud.admin.wait_for_state(instance_id, "running")
