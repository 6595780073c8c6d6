"""CreateFleet requests as they are sent, and the meaning of the responses."""

import json
from datetime import datetime, timezone

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws.fleet import Ec2Fleet
from runctl.aws.fleet_requests import GangResources, LaunchTemplate
from runctl.model.errors import RefusedError, TransientError
from runctl.model.identity import client_token
from runctl.model.machine import Machine
from runctl.model.pool import MachineKind, Pool
from runctl.model.root_volume import RootVolume

SUBNETS = {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b"}
POOLS = [
    Pool(kind, zone, "spot")
    for kind in ("g5.xlarge", "m5.large", "m7g.large", "m6i.large")
    for zone in SUBNETS
]


@pytest.fixture
def ec2():
    client = boto3.client("ec2")
    with Stubber(client) as stub:
        yield stub, make(client)
        stub.assert_no_pending_responses()


def make(client):
    return Ec2Fleet(
        client,
        deployment="ours",
        subnets=SUBNETS,
        launch_templates={
            kind: LaunchTemplate(template_id=f"lt-{kind.value}", version="3")
            for kind in MachineKind
        },
        gang=GangResources(
            templates={
                kind: LaunchTemplate(template_id=f"lt-gang-{kind.value}", version="3")
                for kind in MachineKind
            },
            efa_templates={MachineKind.X86_GPU: LaunchTemplate(template_id="lt-efa", version="3")},
            placement_groups={"us-east-1a": "cluster-a"},
        ),
    )


def build(fleet, pools=POOLS):
    return fleet.build_request(run_id="run-1", attempt=4, launch_try=2, pools=pools)


def where(kind="m5.large", subnet="subnet-a"):
    return {"Overrides": {"InstanceType": kind, "SubnetId": subnet}}


def refusal(code, *, kind="m5.large", subnet="subnet-a"):
    return {
        "LaunchTemplateAndOverrides": where(kind, subnet),
        "Lifecycle": "spot",
        "ErrorCode": code,
        "ErrorMessage": f"about {code}",
    }


def test_a_volume_replaces_the_root_volume_of_its_kind_of_machine(ec2):
    volume = RootVolume(device="/dev/sda1", gib=300, throughput=500, iops=3000, key="alias/ours")
    fleet = ec2[1]
    request = json.loads(
        fleet.build_request(
            run_id="r",
            attempt=1,
            launch_try=1,
            pools=POOLS,
            volumes={MachineKind.X86_CPU: volume},
        )
    )
    expected = {
        "DeviceName": "/dev/sda1",
        "Ebs": {
            "VolumeType": "gp3",
            "VolumeSize": 300,
            "Throughput": 500,
            "Iops": 3000,
            "Encrypted": True,
            "DeleteOnTermination": True,
            "KmsKeyId": "alias/ours",
        },
    }
    found = {
        override["InstanceType"]: override.get("BlockDeviceMappings")
        for config in request["LaunchTemplateConfigs"]
        for override in config["Overrides"]
    }
    assert found == {
        "g5.xlarge": None,
        "m5.large": [expected],
        "m7g.large": None,
        "m6i.large": [expected],
    }
    # botocore knows every parameter.
    stub, _ = ec2
    stub.add_response("create_fleet", {"FleetId": "fleet-1", "Errors": [], "Instances": []})
    fleet.launch(json.dumps(request))


def test_a_spot_request_asks_for_one_instance_of_any_pool(ec2):
    request = json.loads(build(ec2[1]))
    configs = request.pop("LaunchTemplateConfigs")
    tags = request.pop("TagSpecifications")
    assert request == {
        "Type": "instant",
        "ClientToken": client_token(
            deployment="ours lt-arm_cpu lt-x86_cpu lt-x86_gpu",
            run_id="run-1",
            attempt=4,
            launch_try=2,
        ),
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": 1,
            "DefaultTargetCapacityType": "spot",
        },
        "SpotOptions": {
            "AllocationStrategy": "price-capacity-optimized",
            "InstanceInterruptionBehavior": "terminate",
        },
    }
    assert [group["ResourceType"] for group in tags] == ["fleet", "instance", "volume"]
    assert {tag["Key"]: tag["Value"] for tag in tags[1]["Tags"]} == {
        "Name": "run-1/4",
        "runctl:run-id": "run-1",
        "runctl:attempt": "4",
        "runctl:deployment": "ours",
    }
    chosen = {
        config["LaunchTemplateSpecification"]["LaunchTemplateId"]: [
            (override["InstanceType"], override["SubnetId"]) for override in config["Overrides"]
        ]
        for config in configs
    }
    assert chosen == {
        "lt-x86_gpu": [("g5.xlarge", "subnet-a"), ("g5.xlarge", "subnet-b")],
        "lt-x86_cpu": [
            ("m5.large", "subnet-a"),
            ("m5.large", "subnet-b"),
            ("m6i.large", "subnet-a"),
            ("m6i.large", "subnet-b"),
        ],
        "lt-arm_cpu": [("m7g.large", "subnet-a"), ("m7g.large", "subnet-b")],
    }


def test_an_on_demand_request_has_no_spot_options(ec2):
    request = json.loads(build(ec2[1], [Pool("m5.large", "us-east-1a", "on-demand")]))
    assert request["OnDemandOptions"] == {"AllocationStrategy": "lowest-price"}
    assert "SpotOptions" not in request


def test_one_request_is_for_one_market(ec2):
    with pytest.raises(ValueError, match="too many values"):
        build(ec2[1], [POOLS[0], Pool("m5.large", "us-east-1a", "on-demand")])


def test_the_client_token_is_as_long_as_ec2_accepts(ec2):
    token = json.loads(build(ec2[1]))["ClientToken"]
    assert len(token) <= 64
    assert token.isascii()


def test_the_recorded_request_is_sent_verbatim_and_names_its_pool(ec2):
    stub, fleet = ec2
    request = build(fleet)
    # The stub checks the request against botocore's model of CreateFleet.
    stub.add_response(
        "create_fleet",
        {
            "FleetId": "fleet-1",
            "Errors": [refusal("InsufficientInstanceCapacity", kind="g5.xlarge")],
            "Instances": [
                {
                    "LaunchTemplateAndOverrides": where("m5.large", "subnet-b"),
                    "Lifecycle": "spot",
                    "InstanceIds": ["i-1"],
                    "InstanceType": "m5.large",
                }
            ],
        },
        json.loads(request),
    )
    result = fleet.launch(request)
    assert (result.instance_ids, result.fleet_id) == (("i-1",), "fleet-1")
    assert result.pool == Pool("m5.large", "us-east-1b", "spot")
    assert result.refusals == {
        Pool("g5.xlarge", "us-east-1a", "spot"): "InsufficientInstanceCapacity"
    }


def test_refusals_of_pools_are_a_result(ec2):
    stub, fleet = ec2
    errors = [
        refusal("InsufficientInstanceCapacity"),
        refusal("MaxSpotInstanceCountExceeded", kind="g5.xlarge"),
        refusal("Unsupported", subnet="subnet-b"),
        refusal("InvalidSomethingNew", kind="m6i.large"),
    ]
    stub.add_response("create_fleet", {"FleetId": "fleet-1", "Errors": errors, "Instances": []})
    result = fleet.launch(build(fleet))
    assert (result.instance_ids, result.pool) == ((), None)
    assert sorted(result.refusals.values()) == sorted(error["ErrorCode"] for error in errors)


@pytest.mark.parametrize(
    "code",
    [
        "UnauthorizedOperation",
        "ServiceLinkedRoleCreationNotPermitted",
        "InvalidParameterValue",
    ],
)
def test_errors_that_no_other_pool_would_fix_are_raised(ec2, code):
    stub, fleet = ec2
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": [refusal(code)], "Instances": []})
    with pytest.raises(RefusedError, match=rf"\({code}\)$"):
        fleet.launch(build(fleet))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_missing_permission_outranks_what_pools_refuse(ec2, is_first):
    stub, fleet = ec2
    denied = {
        **refusal("UnauthorizedOperation"),
        "ErrorMessage": "You are not authorized to perform this operation. User: arn:aws:sts::1:"
        "assumed-role/launch/fn is not authorized to perform: iam:PassRole on resource: "
        "arn:aws:iam::1:role/instance because no identity-based policy allows it",
    }
    others = [
        refusal("InvalidFleetConfiguration", kind="g5.xlarge"),
        refusal("InsufficientInstanceCapacity", kind="m6i.large"),
        refusal("RequestLimitExceeded", kind="m6i.large", subnet="subnet-b"),
    ]
    errors = [denied, *others] if is_first else [*others, denied]
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": errors, "Instances": []})
    with pytest.raises(RefusedError, match=r"the permission iam:PassRole on .* was refused for"):
        fleet.launch(build(fleet))


def test_a_missing_permission_does_not_matter_once_there_is_an_instance(ec2):
    stub, fleet = ec2
    group = {
        "LaunchTemplateAndOverrides": where(),
        "InstanceIds": ["i-1"],
        "InstanceType": "m5.large",
    }
    errors = [refusal("UnauthorizedOperation", kind="g5.xlarge")]
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": errors, "Instances": [group]})
    assert fleet.launch(build(fleet)).instance_ids == ("i-1",)


def test_a_parameter_that_one_type_does_not_accept_does_not_affect_the_others(ec2):
    stub, fleet = ec2
    errors = [refusal("InvalidParameterValue"), refusal("UnfulfillableCapacity", kind="g5.xlarge")]
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": errors, "Instances": []})
    assert len(fleet.launch(build(fleet)).refusals) == 2


@pytest.mark.parametrize(
    "code", ["RequestLimitExceeded", "InternalError", "InvalidLaunchTemplateId.NotFound", "New"]
)
def test_an_error_that_says_nothing_about_a_pool_is_a_result_since_a_token_has_one_answer(
    ec2, code
):
    stub, fleet = ec2
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": [refusal(code)], "Instances": []})
    result = fleet.launch(build(fleet))
    assert (list(result.refusals.values()), result.was_answered) == ([code], True)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("UnauthorizedOperation", RefusedError),
        ("SsmAccessDenied", RefusedError),
        ("ExpiredToken", RefusedError),
        ("IdempotentParameterMismatch", TransientError),
        ("Unavailable", TransientError),
        ("InternalError", TransientError),
        ("InvalidParameterValue", RefusedError),
        ("InvalidFleetConfiguration", RefusedError),
    ],
)
def test_a_refused_call_is_raised(ec2, code, meaning):
    stub, fleet = ec2
    stub.add_client_error("create_fleet", code)
    with pytest.raises(meaning):
        fleet.launch(build(fleet))


@pytest.mark.parametrize(
    "code",
    [
        "RequestLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "MaxFleetCountExceeded",
        "InsufficientInstanceCapacity",
        "SomethingNew",
    ],
)
def test_a_refused_call_that_launched_nothing_is_a_refusal_of_each_requested_pool(ec2, code):
    stub, fleet = ec2
    stub.add_client_error("create_fleet", code)
    result = fleet.launch(build(fleet))
    assert result.refusals == dict.fromkeys(POOLS, code)
    assert (result.instance_ids, result.was_answered) == ((), False)


def test_a_machine_is_returned_with_its_pool_and_the_reason_for_its_end(ec2):
    stub, fleet = ec2
    at = datetime(2030, 1, 1, tzinfo=timezone.utc)
    stub.add_response(
        "describe_instances",
        {
            "Reservations": [
                {
                    "Instances": [
                        {
                            "InstanceId": "i-1",
                            "InstanceType": "m5.large",
                            "InstanceLifecycle": "spot",
                            "Placement": {"AvailabilityZone": "us-east-1a"},
                            "State": {"Name": "terminated"},
                            "StateReason": {"Code": "Server.SpotInstanceTermination"},
                            "LaunchTime": at,
                            "Tags": [{"Key": "runctl:attempt", "Value": "4"}],
                        }
                    ]
                }
            ]
        },
        {"Filters": [{"Name": "instance-id", "Values": ["i-1", "i-2"]}]},
    )
    (machine,) = fleet.describe(["i-1", "i-2"])
    assert machine == Machine(
        instance_id="i-1",
        state="terminated",
        pool=Pool("m5.large", "us-east-1a", "spot"),
        reason="Server.SpotInstanceTermination",
        launched_at=at,
        tags={"runctl:attempt": "4"},
    )
    assert machine.was_reclaimed
    assert not machine.is_live
    assert machine.attempt == 4


def test_no_machines_cost_no_call(ec2):
    assert ec2[1].describe([]) == []
    ec2[1].terminate([])


def test_a_missing_machine_does_not_prevent_the_termination_of_the_others(ec2):
    stub, fleet = ec2
    stub.add_client_error("terminate_instances", "InvalidInstanceID.NotFound")
    stub.add_response("terminate_instances", {}, {"InstanceIds": ["i-2"]})
    fleet.terminate(["i-1", "i-2"])


def test_terminating_without_permission_is_reported(ec2):
    stub, fleet = ec2
    stub.add_client_error("terminate_instances", "UnauthorizedOperation")
    with pytest.raises(RefusedError):
        fleet.terminate(["i-1"])


def test_machines_of_a_run_are_found_by_their_tag_while_they_live():
    client = boto3.client("ec2")
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    ids = [
        client.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="m5.large",
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [
                        {"Key": "runctl:run-id", "Value": run_id},
                        {"Key": "runctl:attempt", "Value": "2"},
                        {"Key": "runctl:deployment", "Value": "ours"},
                    ],
                }
            ],
        )["Instances"][0]["InstanceId"]
        for run_id in ("run-1", "run-1", "run-10")
    ]
    fleet = make(client)
    assert {machine.instance_id for machine in fleet.find_by_run("run-1")} == set(ids[:2])
    assert {machine.attempt for machine in fleet.find_by_run("run-1")} == {2}
    fleet.terminate([ids[0], "i-1234567890abcdef0"])
    assert [machine.instance_id for machine in fleet.find_by_run("run-1")] == [ids[1]]
    assert {machine.instance_id for machine in fleet.describe(ids)} == set(ids)


def test_the_machines_of_all_our_runs_are_found_and_those_of_another_deployment_are_not():
    client = boto3.client("ec2")
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    vpc = client.describe_vpcs()["Vpcs"][0]["VpcId"]
    ours, theirs = (
        client.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
        for name in ("ours", "theirs")
    )

    def launch(group, *tags):
        specification = {
            "ResourceType": "instance",
            "Tags": [{"Key": k, "Value": v} for k, v in tags],
        }
        return client.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="m5.large",
            SecurityGroupIds=[group],
            TagSpecifications=[specification],
        )["Instances"][0]["InstanceId"]

    first = launch(ours, ("runctl:run-id", "run-1"), ("runctl:attempt", "1"))
    second = launch(ours, ("runctl:run-id", "run-2"))
    launch(ours, ("Name", "somebody's"))
    launch(theirs, ("runctl:run-id", "run-1"))
    fleet = Ec2Fleet(
        client, deployment="ours", subnets=SUBNETS, launch_templates={}, security_group=ours
    )
    assert {machine.instance_id for machine in fleet.find_all()} == {first, second}
    fleet.terminate([first])
    assert [machine.instance_id for machine in fleet.find_all()] == [second]
    # Without the security group of the deployment, nothing is found that could be ended.
    assert make(client).find_all() == []


def test_a_run_of_the_same_name_in_another_deployment_is_another_run():
    client = boto3.client("ec2")
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def launch(deployment):
        tags = {"runctl:run-id": "same", "runctl:attempt": "1", "runctl:deployment": deployment}
        made = client.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ],
        )
        return made["Instances"][0]["InstanceId"]

    ours, theirs = launch("ours"), launch("theirs")
    fleet = make(client)
    assert [machine.instance_id for machine in fleet.find_by_run("same")] == [ours]
    assert {
        machine.instance_id: machine.is_foreign for machine in fleet.describe([ours, theirs])
    } == {
        ours: False,
        theirs: True,
    }


def test_deployments_request_runs_of_the_same_name_with_different_tokens():
    def token(deployment, template):
        fleet = Ec2Fleet(
            None,
            deployment=deployment,
            subnets=SUBNETS,
            launch_templates={
                MachineKind.X86_CPU: LaunchTemplate(template_id=template, version="1")
            },
        )
        return json.loads(build(fleet, [Pool("m5.large", "us-east-1a", "spot")]))["ClientToken"]

    # The last is a deployment that was destroyed and created again.
    assert len({token("ours", "lt-1"), token("theirs", "lt-1"), token("ours", "lt-2")}) == 3
    assert token("ours", "lt-1") == token("ours", "lt-1")


def test_all_pages_of_machines_are_read(ec2):
    stub, fleet = ec2
    described = {
        "InstanceType": "m5.large",
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "State": {"Name": "running"},
        "Tags": [{"Key": "runctl:run-id", "Value": "run-1"}],
    }
    for number, token in ((1, {"NextToken": "more"}), (2, {})):
        page = {"Reservations": [{"Instances": [{**described, "InstanceId": f"i-{number}"}]}]}
        stub.add_response("describe_instances", {**page, **token})
    assert [machine.instance_id for machine in fleet.find_all()] == ["i-1", "i-2"]


def test_an_error_that_names_no_known_pool_is_a_refusal_of_an_unknown_one(ec2):
    stub, fleet = ec2
    whole = refusal("InsufficientInstanceCapacity")
    del whole["LaunchTemplateAndOverrides"]
    elsewhere = refusal("UnfulfillableCapacity", subnet="subnet-of-last-week")
    stub.add_response(
        "create_fleet", {"FleetId": "f", "Errors": [whole, elsewhere], "Instances": []}
    )
    assert fleet.launch(build(fleet)).refusals == {
        Pool("unknown", "unknown", "spot"): "InsufficientInstanceCapacity",
        Pool("m5.large", "unknown", "spot"): "UnfulfillableCapacity",
    }


def test_the_pool_of_a_machine_in_a_former_subnet_can_be_stored_and_read(ec2):
    stub, fleet = ec2
    group = {
        "LaunchTemplateAndOverrides": {"Overrides": {"SubnetId": "subnet-of-last-week"}},
        "InstanceIds": ["i-1"],
        "InstanceType": "m5.large",
    }
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": [], "Instances": [group]})
    result = fleet.launch(build(fleet))
    assert result.instance_ids == ("i-1",)
    assert Pool.parse(str(result.pool)) == Pool("m5.large", "unknown", "spot")


def tagged(*ids):
    tags = [
        {"ResourceId": fleet_id, "ResourceType": "fleet", "Key": "runctl:run-id"}
        for fleet_id in ids
    ]
    return {"Tags": [{**tag, "Value": "run-1"} for tag in tags]}


def described(fleet_id, **changes):
    return {
        "FleetId": fleet_id,
        "FleetState": "active",
        "CreateTime": datetime(2030, 1, 1, tzinfo=timezone.utc),
        "Type": "instant",
        "Tags": [
            {"Key": "runctl:run-id", "Value": "run-1"},
            {"Key": "runctl:attempt", "Value": "4"},
        ],
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-x86_cpu", "Version": "3"}}
        ],
        "Instances": [{"InstanceIds": ["i-1"]}],
        **changes,
    }


def test_fleets_are_named_by_their_tags_and_ours_by_their_launch_templates(ec2):
    stub, fleet = ec2
    filters = [
        {"Name": "resource-type", "Values": ["fleet"]},
        {"Name": "key", "Values": ["runctl:run-id"]},
    ]
    theirs = [{"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-theirs"}}]
    stub.add_response("describe_tags", tagged("f-1", "f-2"), {"Filters": filters})
    stub.add_response(
        "describe_fleets",
        {"Fleets": [described("f-1"), described("f-2", LaunchTemplateConfigs=theirs)]},
        {"FleetIds": ["f-1", "f-2"]},
    )
    (found,) = fleet.find_fleets()
    assert (found.fleet_id, found.run_id, found.attempt) == ("f-1", "run-1", 4)
    assert (found.instance_ids, found.is_deleted) == (("i-1",), False)


def test_a_tag_that_outlived_its_fleet_does_not_hide_the_others(ec2):
    stub, fleet = ec2
    stub.add_response("describe_tags", tagged("f-1", "f-gone"))
    stub.add_client_error("describe_fleets", "InvalidFleetId.NotFound")
    stub.add_response("describe_fleets", {"Fleets": [described("f-1")]}, {"FleetIds": ["f-1"]})
    stub.add_client_error("describe_fleets", "InvalidFleetId.NotFound")
    assert [found.fleet_id for found in fleet.find_fleets()] == ["f-1"]


def test_fleets_are_deleted_25_at_a_time_and_refusals_are_reported(ec2):
    stub, fleet = ec2
    ids = [f"f-{number:02}" for number in range(27)]
    refused = [
        {"FleetId": "f-01", "Error": {"Code": "fleetIdDoesNotExist", "Message": "gone"}},
        {"FleetId": "f-02", "Error": {"Code": "unexpectedError", "Message": "hm"}},
    ]
    stub.add_response(
        "delete_fleets",
        {"SuccessfulFleetDeletions": [], "UnsuccessfulFleetDeletions": refused},
        {"FleetIds": ids[:25], "TerminateInstances": True},
    )
    stub.add_response("delete_fleets", {}, {"FleetIds": ids[25:], "TerminateInstances": True})
    assert fleet.delete_fleets(ids) == {"f-02": "hm (unexpectedError)"}


def test_listing_fleets_without_permission_is_reported(ec2):
    stub, fleet = ec2
    stub.add_client_error("describe_tags", "UnauthorizedOperation")
    with pytest.raises(RefusedError):
        fleet.find_fleets()
