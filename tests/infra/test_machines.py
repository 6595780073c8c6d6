"""Instances: image, metadata service, disk, network, user data, role."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import Tags

from stacks.assets import build_agent
from tests.infra.templates import Resource, Synthesized

BOOTSTRAP = Path(__file__).parents[2] / "instance_scripts/bootstrap.sh"
MAX_USER_DATA = 16 * 1024
KINDS = ("X86Gpu", "X86Cpu", "ArmCpu")
GANG_KINDS = ("X86GpuGang", "X86CpuGang", "ArmCpuGang", "X86GpuGangEfa")


def kind_of(template: Resource) -> str:
    return template.logical_id.partition("LaunchTemplate")[0]


@pytest.fixture(params=[*KINDS, *GANG_KINDS])
def template(request: pytest.FixtureRequest, app: Synthesized) -> Resource:
    (found,) = (
        template
        for template in app.of_type("AWS::EC2::LaunchTemplate")
        if kind_of(template) == request.param
    )
    return found


@pytest.fixture
def data(template: Resource) -> dict[str, Any]:
    found: dict[str, Any] = template.properties["LaunchTemplateData"]
    return found


def test_each_kind_of_machine_has_its_image(app: Synthesized) -> None:
    images = {
        kind_of(template): template.properties["LaunchTemplateData"]["ImageId"]
        for template in app.of_type("AWS::EC2::LaunchTemplate")
    }
    for kind in GANG_KINDS:
        assert images.pop(kind) == images[kind.partition("Gang")[0]]
    canonical = "resolve:ssm:/aws/service/canonical/ubuntu/server/24.04/stable/current"
    assert images == {
        "X86Gpu": "resolve:ssm:/aws/service/deeplearning/ami/x86_64/"
        "base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
        "X86Cpu": f"{canonical}/amd64/hvm/ebs-gp3/ami-id",
        "ArmCpu": f"{canonical}/arm64/hvm/ebs-gp3/ami-id",
    }


def test_metadata_requires_tokens_and_shows_tags(data: dict[str, Any]) -> None:
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpPutResponseHopLimit": 1,
        "HttpTokens": "required",
        "InstanceMetadataTags": "enabled",
    }


def test_a_shutdown_terminates(data: dict[str, Any]) -> None:
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_the_disk_is_encrypted_and_deleted_with_the_instance(data: dict[str, Any]) -> None:
    (disk,) = data["BlockDeviceMappings"]
    ebs = disk["Ebs"]
    assert (ebs["Encrypted"], ebs["VolumeType"], ebs["DeleteOnTermination"]) == (True, "gp3", True)
    # The launching role may not be allowed to use the account's default key.
    assert ebs["KmsKeyId"] == "alias/aws/ebs"
    assert disk["DeviceName"] == "/dev/sda1"
    assert not {"Throughput", "Iops", "VolumeInitializationRate"} & set(ebs)


def security_group(app: Synthesized, prefix: str) -> Resource:
    (found,) = (
        group
        for group in app.of_type("AWS::EC2::SecurityGroup")
        if group.logical_id.startswith(prefix)
    )
    return found


def test_it_has_a_public_address_and_our_security_group(
    app: Synthesized, template: Resource, data: dict[str, Any]
) -> None:
    (interface,) = data["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is True
    prefixes = ["NetworkSecurityGroup"]
    if kind_of(template) in GANG_KINDS:
        prefixes.append("NetworkGangSecurityGroup")
    groups = [security_group(app, prefix) for prefix in prefixes]
    assert interface["Groups"] == [f"<{group.logical_id}.GroupId>" for group in groups]
    assert "SubnetId" not in interface


def test_only_the_template_for_adapters_has_one(template: Resource, data: dict[str, Any]) -> None:
    (interface,) = data["NetworkInterfaces"]
    expected = "efa" if kind_of(template) == "X86GpuGangEfa" else None
    assert interface.get("InterfaceType") == expected


def test_a_template_for_gangs_differs_only_in_its_network(app: Synthesized) -> None:
    found = {
        kind_of(template): dict(template.properties["LaunchTemplateData"])
        for template in app.of_type("AWS::EC2::LaunchTemplate")
    }
    assert sorted(found) == sorted([*KINDS, *GANG_KINDS])
    for data in found.values():
        del data["NetworkInterfaces"]
    for kind in GANG_KINDS:
        assert found[kind] == found[kind.partition("Gang")[0]]


def test_nothing_is_allowed_inbound_but_from_other_nodes_of_gangs(app: Synthesized) -> None:
    for group in app.of_type("AWS::EC2::SecurityGroup"):
        assert "SecurityGroupIngress" not in group.properties
    gang = f"<{security_group(app, 'NetworkGangSecurityGroup').logical_id}.GroupId>"
    (rule,) = app.of_type("AWS::EC2::SecurityGroupIngress")
    assert rule.properties == {
        "Description": "From other nodes",
        "GroupId": gang,
        "IpProtocol": "-1",
        "SourceSecurityGroupId": gang,
    }


def test_the_group_of_gangs_allows_nothing_out_but_to_other_nodes(app: Synthesized) -> None:
    group = security_group(app, "NetworkGangSecurityGroup")
    # Without a rule of the group's own, EC2 would add one that allows everything out.
    (nothing,) = group.properties["SecurityGroupEgress"]
    assert (nothing["CidrIp"], nothing["IpProtocol"]) == ("255.255.255.255/32", "icmp")
    (rule,) = app.of_type("AWS::EC2::SecurityGroupEgress")
    # EFA needs a rule that names the group itself.
    assert rule.properties["GroupId"] == f"<{group.logical_id}.GroupId>"
    assert rule.properties["DestinationSecurityGroupId"] == rule.properties["GroupId"]
    assert rule.properties["IpProtocol"] == "-1"


def test_each_zone_has_a_cluster_placement_group_that_launches_know(app: Synthesized) -> None:
    groups = app.of_type("AWS::EC2::PlacementGroup")
    assert [group.properties for group in groups] == [{"Strategy": "cluster"}] * 3
    for function in ("launch_instances", "handle_interruption"):
        variables = app.function(function).properties["Environment"]["Variables"]
        named = json.loads(variables["RUNCTL_PLACEMENT_GROUPS"])
        assert sorted(named) == ["us-east-1a", "us-east-1b", "us-east-1c"]
        assert sorted(named.values()) == sorted(f"<{group.logical_id}>" for group in groups)


@pytest.mark.parametrize("function", ["launch_instances", "handle_interruption", "reconcile"])
def test_functions_know_the_templates_for_gangs(app: Synthesized, function: str) -> None:
    variables = app.function(function).properties["Environment"]["Variables"]
    templates = {
        kind_of(template): f"<{template.logical_id}>"
        for template in app.of_type("AWS::EC2::LaunchTemplate")
    }
    assert json.loads(variables["RUNCTL_GANG_TEMPLATES"]) == {
        "x86_gpu": templates["X86GpuGang"],
        "x86_cpu": templates["X86CpuGang"],
        "arm_cpu": templates["ArmCpuGang"],
        "x86_gpu_efa": templates["X86GpuGangEfa"],
    }


def test_the_variables_of_a_function_stay_below_the_limit_of_lambda(app: Synthesized) -> None:
    for function in app.of_type("AWS::Lambda::Function"):
        variables = function.properties["Environment"]["Variables"]
        # The values that only a deployment knows are a little longer than their placeholders.
        assert len(json.dumps(variables)) < 3500


def test_there_is_one_public_subnet_per_zone(app: Synthesized) -> None:
    zones = [subnet.properties["AvailabilityZone"] for subnet in app.of_type("AWS::EC2::Subnet")]
    assert sorted(zones) == ["us-east-1a", "us-east-1b", "us-east-1c"]
    endpoints = [
        endpoint.properties["ServiceName"] for endpoint in app.of_type("AWS::EC2::VPCEndpoint")
    ]
    assert sorted(name.rpartition(".")[2] for name in endpoints) == ["dynamodb", "s3"]


def test_nothing_depends_on_a_default_vpc(app: Synthesized) -> None:
    (vpc,) = app.of_type("AWS::EC2::VPC")
    subnets = app.of_type("AWS::EC2::Subnet")
    for resource in (*subnets, *app.of_type("AWS::EC2::SecurityGroup")):
        assert resource.properties["VpcId"] == f"<{vpc.logical_id}>"
    # Each override of a launch names one of these; otherwise EC2 would use the default VPC.
    variables = app.function("launch_instances").properties["Environment"]["Variables"]
    named = json.loads(variables["RUNCTL_SUBNETS"])
    assert sorted(named.values()) == sorted(f"<{subnet.logical_id}>" for subnet in subnets)


def test_the_user_data_is_the_header_and_bootstrap_without_comments(data: dict[str, Any]) -> None:
    header, _, rest = data["UserData"].partition("\n\n")
    lines = BOOTSTRAP.read_text().splitlines()
    assert rest.splitlines() == [
        line for line in lines if line.split()[:1] != ["#"]
    ]  # `#!` is not a comment
    assert any(line.startswith("#!/bin/sh") for line in rest.splitlines())
    assert header.startswith("#!/bin/bash\nexport ")
    # The names of the bucket and the archive are only known after deployment; they are short.
    assert len(data["UserData"].encode()) + 500 < MAX_USER_DATA


def test_the_header_exports_what_bootstrap_needs(data: dict[str, Any]) -> None:
    exported = set(re.findall(r"^export (\w+)='", data["UserData"], re.MULTILINE))
    text = re.sub(r"^\s*#.*$", "", BOOTSTRAP.read_text(), flags=re.MULTILINE)
    used = set(re.findall(r"\$\{?(RUNCTL_[A-Z0-9_]+)", text))
    optional = set(re.findall(r"\$\{(RUNCTL_[A-Z0-9_]+):?-", text))
    assert exported == {
        "RUNCTL_AGENT_URI",
        "RUNCTL_AGENT_SHA256",
        "RUNCTL_TABLE",
        "RUNCTL_BUCKET",
        "RUNCTL_LOG_GROUP",
        "RUNCTL_REGION",
        "RUNCTL_CREDENTIALS_FUNCTION",
        "RUNCTL_DEPLOYMENT",
    }
    assert used - optional <= exported


def test_the_header_names_the_archive_that_was_built(data: dict[str, Any]) -> None:
    assert f"export RUNCTL_AGENT_SHA256='{build_agent().sha256}'" in data["UserData"]


def test_the_command_document_accepts_three_actions(app: Synthesized) -> None:
    document = app.one("AWS::SSM::Document", Name="runctl-agent").properties
    content = document["Content"]
    assert content["parameters"]["action"]["allowedValues"] == ["drain", "checkpoint", "stop"]
    (step,) = content["mainSteps"]
    assert step["inputs"]["runCommand"] == [
        "export RUNCTL_DEADLINE='{{ deadline }}'",
        '"${RUNCTL_ROOT:-}/opt/runctl/bin/runctl-agent" {{ action }}',
    ]


def test_only_an_instant_reaches_the_shell_as_a_deadline(app: Synthesized) -> None:
    document = app.one("AWS::SSM::Document", Name="runctl-agent").properties
    deadline = document["Content"]["parameters"]["deadline"]
    assert deadline["default"] == ""
    for text in ("", "2030-01-01T12:02:00Z"):
        assert re.search(deadline["allowedPattern"], text)
    for text in ("soon", "'; reboot; '", "2030-01-01T12:02:00Z'; reboot; '"):
        assert not re.search(deadline["allowedPattern"], text)


def test_the_tags_of_the_app_are_checked_in_the_compute_stack() -> None:
    from aws_cdk import App

    from app import compose

    app = App(analytics_reporting=False, context={"zones": "us-east-1a"})
    compose(app)
    Tags.of(app).add("team/owner", "x")
    with pytest.raises(RuntimeError, match=r"-compute\] tag 'team/owner'"):
        app.synth()
