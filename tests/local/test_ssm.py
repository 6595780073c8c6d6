"""Commands reach instances whose agent has registered."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.local.client import LocalCloudError
from tests.local.clouds import Cloud, eventually, unique

pytestmark = pytest.mark.slow

TEMPLATE = {
    "Resources": {
        "Drain": {
            "Type": "AWS::SSM::Document",
            "Properties": {
                "DocumentType": "Command",
                "Content": {
                    "schemaVersion": "2.2",
                    "parameters": {
                        "attempt": {"type": "String", "allowedPattern": "^[0-9]+$"},
                        "word": {"type": "String", "default": "hello"},
                    },
                    "mainSteps": [
                        {
                            "action": "aws:runShellScript",
                            "name": "drain",
                            "inputs": {
                                "runCommand": [
                                    "echo {{ word }} {{attempt}}",
                                    'echo "$RUNCTL_ROOT" >&2',
                                    "exit {{ attempt }}",
                                ]
                            },
                        }
                    ],
                },
            },
        }
    },
    "Outputs": {"Name": {"Value": {"Ref": "Drain"}}},
}


@pytest.fixture
def document(cloud: Cloud) -> str:
    import json

    cloudformation, stack = cloud.client("cloudformation"), unique("stack")
    cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps(TEMPLATE))

    def outputs() -> list[dict[str, str]]:
        found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
        assert "FAILED" not in found["StackStatus"], found
        listed: list[dict[str, str]] = found.get("Outputs", [])
        return listed

    return str(eventually(outputs)[0]["OutputValue"])


def launch(cloud: Cloud) -> str:
    data = {"IamInstanceProfile": {"Name": cloud.profile(cloud.role())}}
    instance_id = cloud.launch(data=data)
    eventually(lambda: cloud.admin.instance(instance_id)["agent_ready"])
    return instance_id


def finished(cloud: Cloud, command: dict[str, Any], instance_id: str) -> dict[str, Any]:
    ssm = cloud.client("ssm")

    def check() -> dict[str, Any] | None:
        got: dict[str, Any] = ssm.get_command_invocation(
            CommandId=command["Command"]["CommandId"], InstanceId=instance_id
        )
        return got if got["Status"] not in {"Pending", "InProgress"} else None

    got: dict[str, Any] = eventually(check)
    return got


def test_a_document_from_cloudformation_runs_with_its_parameters(
    cloud: Cloud, document: str
) -> None:
    instance_id = launch(cloud)
    command = cloud.client("ssm").send_command(
        DocumentName=document, InstanceIds=[instance_id], Parameters={"attempt": ["0"]}
    )
    got = finished(cloud, command, instance_id)
    assert (got["Status"], got["ResponseCode"]) == ("Success", 0)
    assert got["StandardOutputContent"] == "hello 0\n"
    assert got["StandardErrorContent"] == f"{cloud.root(instance_id)}\n"


def test_a_script_that_fails_is_a_failed_command(cloud: Cloud, document: str) -> None:
    instance_id = launch(cloud)
    command = cloud.client("ssm").send_command(
        DocumentName=document, InstanceIds=[instance_id], Parameters={"attempt": ["3"]}
    )
    got = finished(cloud, command, instance_id)
    assert (got["Status"], got["ResponseCode"]) == ("Failed", 3)


@pytest.mark.parametrize(
    "parameters", [{}, {"attempt": ["x; reboot"]}, {"attempt": ["1"], "other": ["2"]}]
)
def test_parameters_that_the_document_does_not_allow_are_refused(
    cloud: Cloud, document: str, parameters: dict[str, list[str]]
) -> None:
    instance_id = launch(cloud)
    with pytest.raises(ClientError, match="InvalidParameters"):
        cloud.client("ssm").send_command(
            DocumentName=document, InstanceIds=[instance_id], Parameters=parameters
        )


def test_an_instance_without_a_registered_agent_is_invalid(cloud: Cloud) -> None:
    cloud.admin.set_knobs(agent_delay=60)
    instance_id = cloud.launch(data={"IamInstanceProfile": {"Name": cloud.profile(cloud.role())}})
    cloud.admin.wait_for_state(instance_id, "running")
    ssm = cloud.client("ssm")
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        ssm.send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=[instance_id],
            Parameters={"commands": ["true"]},
        )
    assert instance_id not in {
        known["InstanceId"]
        for known in ssm.describe_instance_information()["InstanceInformationList"]
    }


def test_a_shell_script_runs_and_is_ended_after_its_time(cloud: Cloud) -> None:
    instance_id, ssm = launch(cloud), cloud.client("ssm")
    command = ssm.send_command(
        DocumentName="AWS-RunShellScript",
        Targets=[{"Key": "InstanceIds", "Values": [instance_id]}],
        Parameters={"commands": ["echo begun", "sleep 1000"], "executionTimeout": ["1"]},
    )
    got = finished(cloud, command, instance_id)
    assert got["Status"] == "TimedOut"
    assert got["StandardOutputContent"] == "begun\n"
    listed = ssm.list_command_invocations(CommandId=command["Command"]["CommandId"])
    assert [
        command_invocation["Status"] for command_invocation in listed["CommandInvocations"]
    ] == ["TimedOut"]


def test_public_image_parameters_are_answered(cloud: Cloud) -> None:
    name = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
    ssm = cloud.client("ssm")
    first = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    again = ssm.get_parameters(Names=[name, "/aws/service/none"])
    assert first.startswith("ami-")
    assert [parameter["Value"] for parameter in again["Parameters"]] == [first]
    assert again["InvalidParameters"] == ["/aws/service/none"]


def test_a_session_is_started_with_a_connected_instance_and_known_to_the_holder_of_its_token(
    cloud: Cloud,
) -> None:
    instance_id = launch(cloud)
    ssm = cloud.client("ssm")
    request = {
        "Target": instance_id,
        "DocumentName": "AWS-StartPortForwardingSession",
        "Parameters": {"portNumber": ["8080"], "localPortNumber": ["9000"]},
    }
    started = ssm.start_session(**request)
    held = started["SessionId"], started["TokenValue"]
    assert cloud.admin.session(*held) == {"port": 8080, "is_active": True}
    with pytest.raises(LocalCloudError, match="there is no session"):
        cloud.admin.session(started["SessionId"], "another token")
    ssm.terminate_session(SessionId=started["SessionId"])
    assert not cloud.admin.session(*held)["is_active"]

    second = ssm.start_session(**request)
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert not cloud.admin.session(second["SessionId"], second["TokenValue"])["is_active"]
    with pytest.raises(ClientError, match="TargetNotConnected"):
        ssm.start_session(**request)
    with pytest.raises(ClientError, match="InvalidDocument"):
        ssm.start_session(Target=instance_id)
