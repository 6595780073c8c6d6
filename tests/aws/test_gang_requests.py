"""CreateFleet requests for the nodes of a gang, and the networks of instance types."""

import json

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws.fleet import Ec2Fleet
from runctl.aws.fleet_requests import LaunchTemplate
from runctl.model.errors import RefusedError, TransientError
from runctl.model.pool import MachineKind, Pool
from runctl.model.root_volume import RootVolume
from runctl.model.type_network import TypeNetwork
from tests.aws.test_ec2_fleet import SUBNETS, make

SPOT = Pool("m5.large", "us-east-1a", "spot")


def described(name, *, cards=1, efa=False, strategies=("cluster", "partition", "spread")):
    return {
        "InstanceType": name,
        "NetworkInfo": {"MaximumNetworkCards": cards, "EfaSupported": efa},
        "PlacementGroupInfo": {"SupportedStrategies": list(strategies)},
    }


KNOWN = [
    described("m5.large"),
    described("t3.micro", strategies=("partition", "spread")),
    described("g5.48xlarge", efa=True),
    described("p4d.24xlarge", cards=4, efa=True),
    described("c5n.18xlarge", efa=True),
]


@pytest.fixture
def ec2():
    client = boto3.client("ec2")
    with Stubber(client) as stub:
        yield stub, make(client)
        stub.assert_no_pending_responses()


def knows(stub, *names):
    """Let EC2 describe those of the types that it knows, once."""
    stub.add_response(
        "describe_instance_types",
        {"InstanceTypes": [known for known in KNOWN if known["InstanceType"] in names]},
        {"Filters": [{"Name": "instance-type", "Values": list(names)}]},
    )


def build(fleet, pool, **changes):
    fields = {"count": 4, "nodes": 4, **changes}
    text = fleet.build_request(run_id="run-1", attempt=2, launch_try=1, pools=[pool], **fields)
    return json.loads(text)


def test_a_request_for_nodes_is_all_or_none_of_one_type_in_one_zone(ec2):
    stub, fleet = ec2
    knows(stub, "m5.large")
    request = build(fleet, SPOT)
    assert request["TargetCapacitySpecification"] == {
        "TotalTargetCapacity": 4,
        "DefaultTargetCapacityType": "spot",
    }
    assert request["SpotOptions"] == {
        "AllocationStrategy": "price-capacity-optimized",
        "InstanceInterruptionBehavior": "terminate",
        "MinTargetCapacity": 4,
        "SingleAvailabilityZone": True,
        "SingleInstanceType": True,
    }
    (config,) = request["LaunchTemplateConfigs"]
    assert config == {
        "LaunchTemplateSpecification": {"LaunchTemplateId": "lt-gang-x86_cpu", "Version": "3"},
        "Overrides": [{"InstanceType": "m5.large", "SubnetId": "subnet-a"}],
    }
    for specification in request["TagSpecifications"]:
        assert {"Key": "runctl:nodes", "Value": "4"} in specification["Tags"]
    # botocore knows every parameter.
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": [], "Instances": []}, request)
    fleet.launch(json.dumps(request))


def test_a_repair_is_for_the_missing_nodes_of_the_whole_attempt(ec2):
    stub, fleet = ec2
    knows(stub, "m5.large")
    on_demand = Pool("m5.large", "us-east-1a", "on-demand")
    request = build(fleet, on_demand, count=1, nodes=4)
    assert request["TargetCapacitySpecification"]["TotalTargetCapacity"] == 1
    assert request["OnDemandOptions"]["MinTargetCapacity"] == 1
    assert "SpotOptions" not in request
    (config,) = request["LaunchTemplateConfigs"]
    assert config["LaunchTemplateSpecification"]["LaunchTemplateId"] == "lt-gang-x86_cpu"
    assert {"Key": "runctl:nodes", "Value": "4"} in request["TagSpecifications"][0]["Tags"]


def test_spares_may_be_missing(ec2):
    stub, fleet = ec2
    knows(stub, "m5.large")
    request = build(fleet, SPOT, count=5, nodes=5, least=4)
    assert request["TargetCapacitySpecification"]["TotalTargetCapacity"] == 5
    assert request["SpotOptions"]["MinTargetCapacity"] == 4


def test_nodes_have_the_disk_of_the_run(ec2):
    stub, fleet = ec2
    knows(stub, "m5.large")
    volume = RootVolume(device="/dev/sda1", gib=300, throughput=500, iops=3000, key="")
    request = build(fleet, SPOT, volumes={MachineKind.X86_CPU: volume})
    (override,) = request["LaunchTemplateConfigs"][0]["Overrides"]
    assert override["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 300


def placement_of(request):
    (config,) = request["LaunchTemplateConfigs"]
    return config["Overrides"][0].get("Placement")


def test_nodes_are_placed_in_the_group_of_their_zone(ec2):
    stub, fleet = ec2
    knows(stub, "m5.large")
    request = build(fleet, SPOT, placed=True)
    assert placement_of(request) == {"GroupName": "cluster-a"}
    stub.add_response("create_fleet", {"FleetId": "f", "Errors": [], "Instances": []}, request)
    fleet.launch(json.dumps(request))
    assert placement_of(build(fleet, SPOT, placed=False)) is None
    # A zone that the deployment had no group for.
    assert placement_of(build(fleet, Pool("m5.large", "us-east-1b", "spot"), placed=True)) is None


@pytest.mark.parametrize("name", ["t3.micro", "x9.new"])
def test_a_type_that_cannot_be_placed_or_is_unknown_is_launched_without_a_group(ec2, name):
    stub, fleet = ec2
    knows(stub, name)
    assert placement_of(build(fleet, Pool(name, "us-east-1a", "spot"), placed=True)) is None


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("g5.48xlarge", "lt-efa"),
        # Its image has no software for EFA.
        ("c5n.18xlarge", "lt-gang-x86_cpu"),
        # Each of its cards would need an adapter.
        ("p4d.24xlarge", "lt-gang-x86_gpu"),
    ],
)
def test_a_gpu_type_with_one_card_gets_an_adapter(ec2, name, template):
    stub, fleet = ec2
    knows(stub, name)
    (config,) = build(fleet, Pool(name, "us-east-1a", "spot"))["LaunchTemplateConfigs"]
    assert config["LaunchTemplateSpecification"]["LaunchTemplateId"] == template


def test_an_older_deployment_is_named_with_the_remedy():
    client = boto3.client("ec2")
    fleet = Ec2Fleet(
        client,
        deployment="ours",
        subnets=SUBNETS,
        launch_templates={
            MachineKind.X86_CPU: LaunchTemplate(template_id="lt-1", version="1"),
        },
    )
    with Stubber(client) as stub:
        knows(stub, "m5.large")
        with pytest.raises(RefusedError, match="too old for several nodes; run `cdk deploy"):
            build(fleet, SPOT)


def test_networks_are_looked_up_once_and_unknown_types_are_missing(ec2):
    stub, fleet = ec2
    knows(stub, "p4d.24xlarge", "x9.new")
    knows(stub, "t3.micro", "x9.new")
    expected = {"p4d.24xlarge": TypeNetwork(cards=4, has_efa=True, can_cluster=True)}
    assert fleet.network_of(["p4d.24xlarge", "x9.new"]) == expected
    assert fleet.network_of(["p4d.24xlarge"]) == expected
    found = fleet.network_of(["p4d.24xlarge", "t3.micro", "x9.new"])
    assert found == expected | {"t3.micro": TypeNetwork(cards=1)}
    assert fleet.network_of([]) == {}


def test_a_throttled_look_up_of_networks_is_transient(ec2):
    stub, fleet = ec2
    stub.add_client_error("describe_instance_types", "RequestLimitExceeded", "slow down")
    with pytest.raises(TransientError):
        fleet.network_of(["m5.large"])


def test_fleets_of_gangs_are_found_by_their_templates(ec2):
    stub, fleet = ec2
    ids = ["f-1", "f-2", "f-3"]
    stub.add_response(
        "describe_tags",
        {
            "Tags": [
                {"ResourceId": fleet_id, "Key": "runctl:run-id", "Value": "r"} for fleet_id in ids
            ]
        },
    )
    stub.add_response(
        "describe_fleets",
        {
            "Fleets": [
                {
                    "FleetId": fleet_id,
                    "FleetState": "active",
                    "LaunchTemplateConfigs": [
                        {"LaunchTemplateSpecification": {"LaunchTemplateId": template}}
                    ],
                }
                for fleet_id, template in zip(
                    ids, ("lt-gang-arm_cpu", "lt-efa", "lt-theirs"), strict=True
                )
            ]
        },
    )
    assert [found.fleet_id for found in fleet.find_fleets()] == ["f-1", "f-2"]
