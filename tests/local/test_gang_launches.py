"""Launches of instances that train together: placement groups, network adapters, minimums."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import ZONES, Cloud, eventually, unique

TOGETHER = {
    "AllocationStrategy": "price-capacity-optimized",
    "SingleInstanceType": True,
    "SingleAvailabilityZone": True,
}


@pytest.fixture
def group(cloud: Cloud) -> Iterator[str]:
    name = unique("cluster")
    cloud.client("ec2").create_placement_group(GroupName=name, Strategy="cluster")
    yield name
    cloud.client("ec2").delete_placement_group(GroupName=name)


def override(name: str, group: str = "") -> dict[str, Any]:
    placement = {"Placement": {"GroupName": group}} if group else {}
    return {"InstanceType": name, "AvailabilityZone": ZONES[1], **placement}


def launch(cloud: Cloud, override: dict[str, Any], *, count: int) -> Any:
    request = cloud.fleet_request(
        cloud.template("#!/bin/sh\n"),
        overrides=[override],
        target=count,
        SpotOptions={**TOGETHER, "MinTargetCapacity": count},
    )
    return cloud.client("ec2").create_fleet(**request)


def ids_of(got: Any) -> list[str]:
    return [name for group in got["Instances"] for name in group["InstanceIds"]]


def codes_of(got: Any) -> list[str]:
    return [error["ErrorCode"] for error in got["Errors"]]


def describe(cloud: Cloud, stack: str) -> Any:
    (found,) = cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    return found


def create_stack(cloud: Cloud, stack: str, template: Any) -> dict[str, str]:
    """Deploy a template and return its outputs."""
    text = json.dumps(template)
    cloud.client("cloudformation").create_stack(StackName=stack, TemplateBody=text)
    eventually(lambda: describe(cloud, stack)["StackStatus"] == "CREATE_COMPLETE")
    outputs = describe(cloud, stack)["Outputs"]
    return {output["OutputKey"]: output["OutputValue"] for output in outputs}


def test_instances_are_launched_into_a_placement_group(cloud: Cloud, group: str) -> None:
    got = launch(cloud, override("r5.large", group), count=2)
    assert codes_of(got) == []
    (launched,) = got["Instances"]
    placement = launched["LaunchTemplateAndOverrides"]["Overrides"]["Placement"]
    assert placement["GroupName"] == group
    filters = [{"Name": "placement-group-name", "Values": [group]}]
    found = cloud.client("ec2").describe_instances(Filters=filters)["Reservations"]
    assert sorted(place["Instances"][0]["InstanceId"] for place in found) == sorted(ids_of(got))
    assert found[0]["Instances"][0]["Placement"]["GroupName"] == group


def test_a_group_may_lack_capacity_that_its_zone_has(cloud: Cloud, group: str) -> None:
    cloud.admin.set_knobs(placement_group_room=3)
    assert len(ids_of(launch(cloud, override("r5.large", group), count=2))) == 2
    refused = launch(cloud, override("r5.large", group), count=2)
    assert (ids_of(refused), codes_of(refused)) == ([], ["InsufficientInstanceCapacity"])
    assert len(ids_of(launch(cloud, override("r5.large", group), count=1))) == 1
    assert len(ids_of(launch(cloud, override("r5.large"), count=2))) == 2


def test_a_pool_with_too_few_instances_launches_none(cloud: Cloud) -> None:
    cloud.admin.set_capacity(f"c7i.xlarge/{ZONES[1]}/spot", 3)
    got = launch(cloud, override("c7i.xlarge"), count=4)
    assert (ids_of(got), codes_of(got)) == ([], ["InsufficientInstanceCapacity"])


def test_an_unknown_group_is_an_error_of_the_override(cloud: Cloud) -> None:
    got = launch(cloud, override("r5.large", "no-such-group"), count=1)
    assert (ids_of(got), codes_of(got)) == ([], ["InvalidPlacementGroup.Unknown"])


@pytest.mark.parametrize("name", ["t3.medium", "t4g.medium", "m7i-flex.large"])
def test_a_type_that_cannot_be_clustered_is_refused_as_by_ec2(
    cloud: Cloud, group: str, name: str
) -> None:
    got = launch(cloud, override(name, group), count=1)
    assert (ids_of(got), codes_of(got)) == ([], ["InvalidParameterCombination"])
    assert got["Errors"][0]["ErrorMessage"].startswith(
        f"Cluster placement groups are not supported by the '{name}' instance type."
    )


@pytest.fixture(scope="module")
def template_with_adapter(shared_cloud: Cloud) -> str:
    """Create it by CloudFormation: ministack's own call does not keep the type of interfaces."""
    data = {
        "ImageId": "resolve:ssm:/aws/service/canonical/ubuntu/24.04",
        "UserData": base64.b64encode(b"#!/bin/sh\n").decode(),
        "NetworkInterfaces": [{"DeviceIndex": 0, "InterfaceType": "efa"}],
    }
    properties = {"LaunchTemplateData": data}
    resource = {"Type": "AWS::EC2::LaunchTemplate", "Properties": properties}
    outputs = create_stack(
        shared_cloud,
        unique("stack"),
        {"Resources": {"T": resource}, "Outputs": {"T": {"Value": {"Ref": "T"}}}},
    )
    return outputs["T"]


@pytest.mark.parametrize(
    ("name", "codes"), [("g5.xlarge", ["AttachmentLimitExceeded"]), ("g5.48xlarge", [])]
)
def test_only_some_types_have_adapters(
    cloud: Cloud, template_with_adapter: str, name: str, codes: list[str]
) -> None:
    request = cloud.fleet_request("replaced", overrides=[override(name)])
    (config,) = request["LaunchTemplateConfigs"]
    config["LaunchTemplateSpecification"] = {
        "LaunchTemplateId": template_with_adapter,
        "Version": "$Latest",
    }
    assert codes_of(cloud.client("ec2").create_fleet(**request)) == codes


def test_a_minimum_is_at_most_the_target(cloud: Cloud) -> None:
    request = cloud.fleet_request(
        cloud.template(), SpotOptions={**TOGETHER, "MinTargetCapacity": 2}
    )
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        cloud.client("ec2").create_fleet(**request)


def test_types_are_described_with_their_networks(cloud: Cloud) -> None:
    names = ["t3.micro", "m5.large", "g4dn.xlarge", "g5.48xlarge", "c5n.18xlarge", "p4d.24xlarge"]
    found = {
        described["InstanceType"]: (
            described["NetworkInfo"]["MaximumNetworkCards"],
            described["NetworkInfo"]["EfaSupported"],
            "cluster" in described["PlacementGroupInfo"]["SupportedStrategies"],
        )
        for described in cloud.client("ec2").describe_instance_types(InstanceTypes=names)[
            "InstanceTypes"
        ]
    }
    assert found == {
        "t3.micro": (1, False, False),
        "m5.large": (1, False, True),
        "g4dn.xlarge": (1, False, True),
        "g5.48xlarge": (1, True, True),
        "c5n.18xlarge": (1, True, True),
        "p4d.24xlarge": (4, True, True),
    }


TEMPLATE = {
    "Resources": {
        "Cluster": {"Type": "AWS::EC2::PlacementGroup", "Properties": {"Strategy": "cluster"}},
        "Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": "nodes",
                "SecurityGroupEgress": [{"IpProtocol": "icmp", "CidrIp": "255.255.255.255/32"}],
            },
        },
        **{
            direction: {
                "Type": f"AWS::EC2::SecurityGroup{direction}",
                "Properties": {
                    "GroupId": {"Fn::GetAtt": ["Group", "GroupId"]},
                    "IpProtocol": "-1",
                    f"{peer}SecurityGroupId": {"Fn::GetAtt": ["Group", "GroupId"]},
                },
            }
            for direction, peer in (("Ingress", "Source"), ("Egress", "Destination"))
        },
    },
    "Outputs": {
        "Cluster": {"Value": {"Ref": "Cluster"}},
        "Group": {"Value": {"Fn::GetAtt": ["Group", "GroupId"]}},
    },
}


def test_cloudformation_creates_and_deletes_groups_and_rules(cloud: Cloud) -> None:
    cloudformation, ec2, stack = cloud.client("cloudformation"), cloud.client("ec2"), unique("s")
    outputs = create_stack(cloud, stack, TEMPLATE)
    (group,) = ec2.describe_placement_groups(GroupNames=[outputs["Cluster"]])["PlacementGroups"]
    assert group["Strategy"] == "cluster"
    (found,) = ec2.describe_security_groups(GroupIds=[outputs["Group"]])["SecurityGroups"]
    (ingress,) = found["IpPermissions"]
    assert [pair["GroupId"] for pair in ingress["UserIdGroupPairs"]] == [outputs["Group"]]
    egress = [
        pair["GroupId"]
        for permission in found["IpPermissionsEgress"]
        for pair in permission["UserIdGroupPairs"]
    ]
    assert egress == [outputs["Group"]]

    (used,) = ids_of(launch(cloud, override("r5.large", outputs["Cluster"]), count=1))
    cloudformation.delete_stack(StackName=stack)
    eventually(lambda: describe(cloud, stack)["StackStatus"] == "DELETE_FAILED")
    ec2.terminate_instances(InstanceIds=[used])
    cloud.admin.wait_for_state(used, "terminated")
    cloudformation.delete_stack(StackName=stack)

    def is_gone() -> bool:
        try:
            return bool(describe(cloud, stack)["StackStatus"] == "DELETE_COMPLETE")
        except ClientError:
            return True

    eventually(is_gone)
    with pytest.raises(ClientError, match=r"InvalidPlacementGroup\.Unknown"):
        ec2.describe_placement_groups(GroupNames=[outputs["Cluster"]])
