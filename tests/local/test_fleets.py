"""CreateFleet and related calls answer as EC2 does."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.aws.instant_fleets import delete_fleets, find_fleets
from tests.local.clouds import ZONES, Cloud, eventually, unique

POOL = f"m5.large/{ZONES[0]}/spot"


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_a_launched_instance_is_described_as_spot(cloud: Cloud) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": "r1"}]}]
    instance_id = cloud.launch(TagSpecifications=tags)
    described = cloud.describe(instance_id)
    assert described["InstanceLifecycle"] == "spot"
    assert described["Placement"]["AvailabilityZone"] == ZONES[0]
    assert {"Key": "run", "Value": "r1"} in described["Tags"]
    cloud.admin.wait_for_state(instance_id, "running")
    assert cloud.describe(instance_id)["State"]["Name"] == "running"


def test_an_on_demand_instance_has_no_lifecycle(cloud: Cloud) -> None:
    described = cloud.describe(cloud.launch(market="on-demand"))
    assert "InstanceLifecycle" not in described


def test_an_empty_pool_is_an_error_of_its_override_in_a_good_response(cloud: Cloud) -> None:
    cloud.admin.set_capacity(POOL, 0)
    got = cloud.client("ec2").create_fleet(**cloud.fleet_request(cloud.template()))
    assert got["Instances"] == []
    assert [error["ErrorCode"] for error in got["Errors"]] == ["InsufficientInstanceCapacity"]
    assert got["Errors"][0]["LaunchTemplateAndOverrides"]["Overrides"]["InstanceType"] == "m5.large"


@pytest.mark.parametrize(
    "code", ["MaxSpotInstanceCountExceeded", "UnfulfillableCapacity", "SpotMaxPriceTooLow"]
)
def test_the_configured_error_is_returned(cloud: Cloud, code: str) -> None:
    cloud.admin.set_capacity(POOL, error=code)
    got = cloud.client("ec2").create_fleet(**cloud.fleet_request(cloud.template()))
    assert [error["ErrorCode"] for error in got["Errors"]] == [code]


def pool_of(instance_type: str) -> tuple[str, dict[str, Any]]:
    """Return a pool without other tests' instances that shut down, and a query for it.

    Instances count in their pool until they have ended.
    """
    override = {"InstanceType": instance_type, "AvailabilityZone": ZONES[0]}
    return f"{instance_type}/{ZONES[0]}/spot", {"overrides": [override]}


def test_an_ended_instance_frees_its_capacity(cloud: Cloud) -> None:
    pool, asked = pool_of("m5.xlarge")
    cloud.admin.set_capacity(pool, 1)
    instance_id = cloud.launch(**asked)
    template = cloud.template()
    refused = cloud.client("ec2").create_fleet(**cloud.fleet_request(template, **asked))
    assert refused["Instances"] == []
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert cloud.launch(template=template, **asked)


def test_a_repeated_request_with_the_same_token_has_the_same_answer(cloud: Cloud) -> None:
    request = cloud.fleet_request(cloud.template(), ClientToken=unique("token"))
    ec2 = cloud.client("ec2")
    first, second = ec2.create_fleet(**request), ec2.create_fleet(**request)
    assert first["FleetId"] == second["FleetId"]
    assert first["Instances"] == second["Instances"]


def test_the_same_token_with_another_request_is_refused(cloud: Cloud) -> None:
    template, token = cloud.template(), unique("token")
    ec2 = cloud.client("ec2")
    ec2.create_fleet(**cloud.fleet_request(template, ClientToken=token))
    with pytest.raises(ClientError) as caught:
        ec2.create_fleet(**cloud.fleet_request(template, ClientToken=token, target=2))
    assert code_of(caught) == "IdempotentParameterMismatch"


def test_a_token_longer_than_64_characters_is_refused(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match="64"):
        cloud.launch(ClientToken="x" * 65)


def test_a_minimum_needs_one_type_or_one_zone(cloud: Cloud) -> None:
    options = {"MinTargetCapacity": 1, "AllocationStrategy": "price-capacity-optimized"}
    with pytest.raises(ClientError) as caught:
        cloud.launch(SpotOptions=options)
    assert code_of(caught) == "InvalidParameterCombination"


def test_a_gang_is_launched_completely_or_not_at_all(cloud: Cloud) -> None:
    pool, asked = pool_of("m5.2xlarge")
    cloud.admin.set_capacity(pool, 2)
    options = {
        "MinTargetCapacity": 3,
        "SingleInstanceType": True,
        "AllocationStrategy": "price-capacity-optimized",
    }
    request = cloud.fleet_request(cloud.template(), target=3, SpotOptions=options, **asked)
    ec2 = cloud.client("ec2")
    assert ec2.create_fleet(**request)["Instances"] == []
    cloud.admin.set_capacity(pool, 3)
    launched = ec2.create_fleet(**request)["Instances"]
    assert len(launched[0]["InstanceIds"]) == 3


@pytest.mark.parametrize("kind", ["maintain", "request"])
def test_other_fleet_types_are_refused(cloud: Cloud, kind: str) -> None:
    with pytest.raises(ClientError) as caught:
        cloud.launch(Type=kind)
    assert code_of(caught) == "UnsupportedOperation"


def test_a_missing_template_or_profile_is_refused(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match="does not exist"):
        cloud.launch(template="no-such-template")
    with pytest.raises(ClientError, match="Invalid IAM Instance Profile"):
        cloud.launch(data={"IamInstanceProfile": {"Name": "no-such-profile"}})


def test_deleting_a_fleet_ends_its_instances(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    got = ec2.create_fleet(**cloud.fleet_request(cloud.template("#!/bin/sh\n")))
    instance_id = got["Instances"][0]["InstanceIds"][0]
    kept = ec2.delete_fleets(FleetIds=[got["FleetId"]], TerminateInstances=False)
    assert len(kept["UnsuccessfulFleetDeletions"]) == 1
    ec2.delete_fleets(FleetIds=[got["FleetId"]], TerminateInstances=True)
    assert cloud.admin.wait_for_state(instance_id, "terminated")["reason"] == (
        "Client.UserInitiatedShutdown"
    )


def test_an_instant_fleet_is_found_by_its_id_which_its_tag_holds(cloud: Cloud) -> None:
    ec2, run = cloud.client("ec2"), unique("run")
    tags = [{"ResourceType": "fleet", "Tags": [{"Key": "run", "Value": run}]}]
    template = cloud.template("#!/bin/sh\n")
    got = ec2.create_fleet(**cloud.fleet_request(template, TagSpecifications=tags))
    assert got["FleetId"] not in {listed["FleetId"] for listed in ec2.describe_fleets()["Fleets"]}
    filters = [{"Name": "resource-type", "Values": ["fleet"]}, {"Name": "value", "Values": [run]}]
    (tag,) = ec2.describe_tags(Filters=filters)["Tags"]
    assert (tag["ResourceId"], tag["Key"], tag["ResourceType"]) == (got["FleetId"], "run", "fleet")
    (fleet,) = ec2.describe_fleets(FleetIds=[tag["ResourceId"]])["Fleets"]
    (config,) = fleet["LaunchTemplateConfigs"]
    assert config["LaunchTemplateSpecification"]["LaunchTemplateId"].startswith("lt-")
    assert fleet["Instances"][0]["InstanceIds"] == got["Instances"][0]["InstanceIds"]
    assert fleet["Tags"] == [{"Key": "run", "Value": run}]


def test_a_fleet_is_deleted_once_and_no_more_than_25_at_a_time(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    cloud.admin.set_capacity(POOL, 0)
    fleet = ec2.create_fleet(**cloud.fleet_request(cloud.template()))["FleetId"]
    with pytest.raises(ClientError) as caught:
        ec2.delete_fleets(FleetIds=[fleet] * 26, TerminateInstances=True)
    assert code_of(caught) == "InvalidParameterValue"
    (gone,) = ec2.delete_fleets(FleetIds=[fleet], TerminateInstances=True)[
        "SuccessfulFleetDeletions"
    ]
    assert (gone["PreviousFleetState"], gone["CurrentFleetState"]) == (
        "active",
        "deleted_terminating",
    )
    again = ec2.delete_fleets(FleetIds=[fleet, "fleet-unknown"], TerminateInstances=True)
    codes = [failure["Error"]["Code"] for failure in again["UnsuccessfulFleetDeletions"]]
    assert codes == ["fleetNotInDeletableState", "fleetIdDoesNotExist"]


def test_our_fleets_are_found_and_deleted_over_the_wire(cloud: Cloud) -> None:
    ec2, template, other = cloud.client("ec2"), cloud.template("#!/bin/sh\n"), cloud.template()
    tags = [
        {"ResourceType": "fleet", "Tags": [{"Key": key, "Value": value}]}
        for key, value in (("runctl:run-id", "run-1"),)
    ]

    def launch(name: str, **changes: object) -> str:
        request = cloud.fleet_request(name, **changes)
        fleet_id: str = ec2.create_fleet(**request)["FleetId"]
        return fleet_id

    mine = launch(template, TagSpecifications=tags)
    launch(template)  # nobody's run
    launch(other, TagSpecifications=tags)  # of another deployment
    (described,) = ec2.describe_launch_templates(LaunchTemplateNames=[template])["LaunchTemplates"]
    templates = {described["LaunchTemplateId"]}
    (found,) = find_fleets(ec2, templates=templates)
    assert (found.fleet_id, found.run_id, found.is_deleted) == (mine, "run-1", False)
    assert len(found.instance_ids) == 1
    assert delete_fleets(ec2, [mine, "fleet-unknown"]) == {}
    assert delete_fleets(ec2, [mine]) == {}
    (found,) = find_fleets(ec2, templates=templates)
    assert found.is_deleted
    assert find_fleets(ec2, templates=()) == []


def test_instances_are_found_by_tag_and_state_page_by_page(cloud: Cloud) -> None:
    run = unique("run")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": run}]}]
    launched = {cloud.launch(TagSpecifications=tags) for _ in range(7)}
    pages = (
        cloud.client("ec2")
        .get_paginator("describe_instances")
        .paginate(
            Filters=[
                {"Name": "tag:run", "Values": [run]},
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
            ],
            PaginationConfig={"PageSize": 5},
        )
    )
    sizes, found = [], set()
    for page in pages:
        ids = {
            instance["InstanceId"]
            for group in page["Reservations"]
            for instance in group["Instances"]
        }
        sizes.append(len(ids))
        found |= ids
    assert sizes == [5, 2]
    assert found == launched


def test_an_unknown_instance_is_not_found_and_nothing_ends(cloud: Cloud) -> None:
    known = cloud.launch()
    with pytest.raises(ClientError) as caught:
        cloud.client("ec2").terminate_instances(InstanceIds=[known, "i-0123456789abcdef0"])
    assert code_of(caught) == "InvalidInstanceID.NotFound"
    assert cloud.admin.instance(known)["state"] in {"pending", "running"}


def test_a_new_instance_may_be_invisible_for_a_moment(cloud: Cloud) -> None:
    cloud.admin.set_knobs(not_found_for=3)
    instance_id = cloud.launch()
    with pytest.raises(ClientError) as caught:
        cloud.describe(instance_id)
    assert code_of(caught) == "InvalidInstanceID.NotFound"

    def visible() -> bool:
        try:
            return bool(cloud.describe(instance_id))
        except ClientError:
            return False

    assert eventually(visible)


def volumes_of(cloud: Cloud, run: str) -> list[dict[str, Any]]:
    pages = cloud.client("ec2").get_paginator("describe_volumes")
    filters = [{"Name": "tag-key", "Values": ["run"]}, {"Name": "tag:run", "Values": [run]}]
    return [volume for page in pages.paginate(Filters=filters) for volume in page["Volumes"]]


def launch_with_disk(cloud: Cloud, run: str, **ebs: Any) -> str:
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 50, "VolumeType": "gp3", **ebs}}
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "run", "Value": run}]}]
    return cloud.launch(data={"BlockDeviceMappings": [disk]}, TagSpecifications=tags)


def test_a_root_volume_is_tagged_at_launch_and_goes_with_its_instance(cloud: Cloud) -> None:
    run, ec2 = unique("run"), cloud.client("ec2")
    instance_id = launch_with_disk(cloud, run, DeleteOnTermination=True)
    (volume,) = volumes_of(cloud, run)
    assert (volume["State"], volume["Size"]) == ("in-use", 50)
    assert volume["Attachments"][0]["InstanceId"] == instance_id
    with pytest.raises(ClientError) as caught:
        ec2.delete_volume(VolumeId=volume["VolumeId"])
    assert code_of(caught) == "VolumeInUse"
    ec2.terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert volumes_of(cloud, run) == []


def test_a_volume_that_its_template_keeps_is_left_behind_until_it_is_deleted(cloud: Cloud) -> None:
    run, ec2 = unique("run"), cloud.client("ec2")
    instance_id = launch_with_disk(cloud, run, DeleteOnTermination=False)
    ec2.terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    (volume,) = volumes_of(cloud, run)
    assert (volume["State"], volume["Attachments"]) == ("available", [])
    ec2.delete_volume(VolumeId=volume["VolumeId"])
    with pytest.raises(ClientError) as caught:
        ec2.delete_volume(VolumeId=volume["VolumeId"])
    assert code_of(caught) == "InvalidVolume.NotFound"


def test_prices_are_returned_as_they_were_set(cloud: Cloud) -> None:
    cloud.admin.set_price(POOL, 0.0123)
    got = cloud.client("ec2").describe_spot_price_history(
        InstanceTypes=["m5.large"], AvailabilityZone=ZONES[0], ProductDescriptions=["Linux/UNIX"]
    )
    assert [float(price["SpotPrice"]) for price in got["SpotPriceHistory"]] == [0.0123]


def test_tags_can_be_added_and_removed(cloud: Cloud) -> None:
    instance_id, ec2 = cloud.launch(), cloud.client("ec2")
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "a", "Value": "1"}])
    assert {"Key": "a", "Value": "1"} in cloud.describe(instance_id)["Tags"]
    shown = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance_id]}])["Tags"]
    assert "a" in {tag["Key"] for tag in shown}
    ec2.delete_tags(Resources=[instance_id], Tags=[{"Key": "a"}])
    assert "a" not in {tag["Key"] for tag in cloud.describe(instance_id)["Tags"]}


def test_every_call_is_recorded_with_its_outcome(cloud: Cloud) -> None:
    token = unique("token")
    cloud.launch(ClientToken=token)
    recorded = [call for call in cloud.admin.calls() if call["params"].get("ClientToken") == token]
    assert [(call["action"], call["outcome"]) for call in recorded] == [("CreateFleet", "ok")]
    assert recorded[0]["answer"]["Instances"]
