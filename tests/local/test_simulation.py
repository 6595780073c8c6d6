"""SimulatePrincipalPolicy, dry runs, and the record of the permissions that roles used."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud
from tests.local.test_iam import LAUNCH, allow

pytestmark = pytest.mark.slow

TABLE = "arn:aws:dynamodb:us-east-1:000000000000:table/t"


def decisions(cloud: Cloud, role: str, **fields: Any) -> list[str]:
    """Return the decision of each action, or of each action on each of the resources."""
    got = cloud.client("iam").simulate_principal_policy(PolicySourceArn=role, **fields)
    found: list[str] = []
    for result in got["EvaluationResults"]:
        each = result["ResourceSpecificResults"]
        found += [item["EvalResourceDecision"] for item in each] or [result["EvalDecision"]]
    return found


def context(name: str, *values: str, kind: str = "string") -> dict[str, Any]:
    return {"ContextKeyName": name, "ContextKeyType": kind, "ContextKeyValues": list(values)}


def test_every_action_is_evaluated_on_every_resource(strict_cloud: Cloud) -> None:
    role = strict_cloud.role(allow("dynamodb:GetItem", "dynamodb:Query", resource=TABLE))
    actions, arns = ["dynamodb:GetItem", "dynamodb:PutItem"], [TABLE, f"{TABLE}/index/i"]
    got = decisions(strict_cloud, role, ActionNames=actions, ResourceArns=arns)
    assert got == ["allowed", "implicitDeny", "implicitDeny", "implicitDeny"]
    # There is one result for each action, whose own decision is the most restrictive one.
    answer = strict_cloud.client("iam").simulate_principal_policy(
        PolicySourceArn=role, ActionNames=actions, ResourceArns=arns
    )
    assert [result["EvalDecision"] for result in answer["EvaluationResults"]] == [
        "implicitDeny", "implicitDeny",
    ]  # fmt: skip
    named = answer["EvaluationResults"][0]["ResourceSpecificResults"]
    assert [item["EvalResourceName"] for item in named] == arns
    assert decisions(strict_cloud, role, ActionNames=["dynamodb:Query"]) == ["implicitDeny"]


def test_the_context_decides_conditions_and_missing_keys_are_named(strict_cloud: Cloud) -> None:
    statement = allow("ec2:CreateTags", StringEquals={"ec2:CreateAction": "CreateFleet"})
    keys = allow(
        "dynamodb:GetItem", **{"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["RUN#*"]}}
    )
    denial = {**allow("dynamodb:GetItem", resource=f"{TABLE}2"), "Effect": "Deny"}
    role = strict_cloud.role(statement, keys, denial)
    tag = {"ActionNames": ["ec2:CreateTags"]}
    entry = context("ec2:CreateAction", "CreateFleet")
    assert decisions(strict_cloud, role, **tag, ContextEntries=[entry]) == ["allowed"]
    got = strict_cloud.client("iam").simulate_principal_policy(PolicySourceArn=role, **tag)
    assert got["EvaluationResults"][0]["MissingContextValues"] == ["ec2:CreateAction"]
    read = {"ActionNames": ["dynamodb:GetItem"], "ResourceArns": [TABLE]}
    for values, decision in ((["RUN#a", "RUN#b"], "allowed"), (["WARM#a"], "implicitDeny")):
        entry = context("dynamodb:LeadingKeys", *values, kind="stringList")
        assert decisions(strict_cloud, role, **read, ContextEntries=[entry]) == [decision]
    read["ResourceArns"] = [f"{TABLE}2"]
    assert decisions(strict_cloud, role, **read) == ["explicitDeny"]


def test_what_is_refused(strict_cloud: Cloud) -> None:
    role = strict_cloud.role()
    for arn, code in (
        (f"{role}x", "NoSuchEntity"),
        ("arn:aws:iam::000000000000:user/nobody", "NoSuchEntity"),
    ):
        with pytest.raises(ClientError, match=code):
            decisions(strict_cloud, arn, ActionNames=["s3:GetObject"])
    with pytest.raises(ClientError, match="does not simulate with ResourcePolicy"):
        decisions(strict_cloud, role, ActionNames=["s3:GetObject"], ResourcePolicy="{}")
    powerless = strict_cloud.client("iam", **strict_cloud.assume(role))
    with pytest.raises(ClientError, match=r"AccessDenied.*iam:SimulatePrincipalPolicy"):
        powerless.simulate_principal_policy(PolicySourceArn=role, ActionNames=["s3:GetObject"])
    # The other calls of IAM are ministack's.
    assert strict_cloud.client("iam").get_role(RoleName=role.rpartition("/")[2])


def test_a_simulation_is_no_use_of_a_permission(strict_cloud: Cloud) -> None:
    role = strict_cloud.role(allow("dynamodb:ListTables", "dynamodb:GetItem"))
    assert decisions(strict_cloud, role, ActionNames=["dynamodb:GetItem"]) == ["allowed"]
    strict_cloud.client("dynamodb", **strict_cloud.assume(role)).list_tables()
    name = role.rpartition("/")[2]
    used = [entry for entry in strict_cloud.admin.used_permissions() if entry["role"] == name]
    assert [entry["action"] for entry in used] == ["dynamodb:ListTables"]


def dry_fleet(cloud: Cloud, ec2: Any, **changes: Any) -> str:
    template = changes.pop("template", None) or cloud.template()
    with pytest.raises(ClientError) as caught:
        ec2.create_fleet(DryRun=True, **cloud.fleet_request(template, **changes))
    return str(caught.value.response["Error"]["Code"])


def test_a_dry_run_launches_nothing(strict_cloud: Cloud) -> None:
    before = len(strict_cloud.admin.instances())
    ec2 = strict_cloud.client("ec2")
    assert dry_fleet(strict_cloud, ec2) == "DryRunOperation"
    template = strict_cloud.template(
        IamInstanceProfile={"Name": strict_cloud.profile(strict_cloud.role())}
    )
    found = ec2.describe_launch_templates(LaunchTemplateNames=[template])["LaunchTemplates"]
    named = {"LaunchTemplateId": found[0]["LaunchTemplateId"], "Version": "$Latest"}
    run = {"LaunchTemplate": named, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1}
    with pytest.raises(ClientError, match="DryRunOperation"):
        ec2.run_instances(DryRun=True, **run)
    # A template with a network interface takes the subnet as a part of one.
    placed = strict_cloud.template(NetworkInterfaces=[{"DeviceIndex": 0}])
    (found,) = ec2.describe_launch_templates(LaunchTemplateNames=[placed])["LaunchTemplates"]
    beside = {**run, "LaunchTemplate": {"LaunchTemplateId": found["LaunchTemplateId"]}}
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    with pytest.raises(ClientError, match=r"InvalidParameterCombination.*subnet ID"):
        ec2.run_instances(DryRun=True, **beside, SubnetId=subnet)
    interface = {"DeviceIndex": 0, "SubnetId": subnet}
    with pytest.raises(ClientError, match="DryRunOperation"):
        ec2.run_instances(DryRun=True, **beside, NetworkInterfaces=[interface])
    missing = [{**interface, "SubnetId": "subnet-missing"}]
    with pytest.raises(ClientError, match=r"InvalidSubnetID\.NotFound"):
        ec2.run_instances(DryRun=True, **beside, NetworkInterfaces=missing)
    with pytest.raises(ClientError, match="has no RunInstances"):
        ec2.run_instances(**run)
    with pytest.raises(ClientError, match="no dry run of DescribeInstances"):
        ec2.describe_instances(DryRun=True)
    assert len(strict_cloud.admin.instances()) == before


def test_a_dry_run_is_refused_like_the_call(strict_cloud: Cloud) -> None:
    ec2 = strict_cloud.client("ec2")
    zone_subnet = [{"InstanceType": "m5.large", "SubnetId": "subnet-missing"}]
    assert dry_fleet(strict_cloud, ec2, overrides=zone_subnet) == "InvalidSubnetID.NotFound"
    with pytest.raises(ClientError, match="InvalidInstanceID"):
        ec2.terminate_instances(DryRun=True, InstanceIds=["i-00000000000000000"])
    instance_id = strict_cloud.launch()
    with pytest.raises(ClientError, match="DryRunOperation"):
        ec2.terminate_instances(DryRun=True, InstanceIds=[instance_id])
    assert strict_cloud.admin.instance(instance_id)["state"] in {"pending", "running"}
    few = strict_cloud.role(LAUNCH["ec2:CreateFleet"], LAUNCH["ssm:GetParameters"])
    powerless = strict_cloud.client("ec2", **strict_cloud.assume(few))
    assert dry_fleet(strict_cloud, powerless) == "DryRunOperation"
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        powerless.terminate_instances(DryRun=True, InstanceIds=[instance_id])
    nobody = strict_cloud.client("ec2", **strict_cloud.assume(strict_cloud.role()))
    assert dry_fleet(strict_cloud, nobody) == "UnauthorizedOperation"


def test_published_images_and_the_default_key(strict_cloud: Cloud) -> None:
    ec2, name = strict_cloud.client("ec2"), "/aws/service/canonical/ubuntu/24.04"
    image = strict_cloud.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    (described,) = ec2.describe_images(ImageIds=[image], IncludeDeprecated=True)["Images"]
    assert (described["State"], described["RootDeviceName"]) == ("available", "/dev/sda1")
    # An image that AWS has deprecated is described to those who ask for it.
    strict_cloud.admin.set_knobs(image_age_days=800)
    assert ec2.describe_images(ImageIds=[image])["Images"] == []
    (old,) = ec2.describe_images(ImageIds=[image], IncludeDeprecated=True)["Images"]
    assert old["CreationDate"] < old["DeprecationTime"] < f"{datetime.now(timezone.utc):%Y-%m-%dT}"
    strict_cloud.admin.set_knobs(image_age_days=20)
    assert ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == "alias/aws/ebs"
    with pytest.raises(ClientError, match="There is no key"):
        ec2.modify_ebs_default_kms_key_id(KmsKeyId="alias/none")
