"""AWS FIS on the local cloud: templates, and experiments that act as a role."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud, eventually, unique
from tests.local.test_iam import allow

pytestmark = pytest.mark.slow

INTERRUPT = "ec2:SendSpotInstanceInterruptions"
ACTION = "aws:ec2:send-spot-instance-interruptions"


def fis_role(
    cloud: Cloud,
    *statements: dict[str, Any],
    source: str = "arn:aws:fis:us-east-1:000000000000:experiment/*",
) -> str:
    """Create a role that experiments may use, with these statements."""
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "fis.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {
            "StringEquals": {"aws:SourceAccount": "000000000000"},
            "ArnLike": {"aws:SourceArn": source},
        },
    }
    iam, name = cloud.client("iam"), unique("fis")
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
    held = [allow("ec2:DescribeInstances"), *statements]
    policy = json.dumps({"Version": "2012-10-17", "Statement": held})
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy)
    return str(made["Role"]["Arn"])


def template(instance_id: str, role: str, **changes: Any) -> dict[str, Any]:
    return {
        "clientToken": unique("token"),
        "description": "interrupt",
        "roleArn": role,
        "stopConditions": [{"source": "none"}],
        "targets": {
            "one": {
                "resourceType": "aws:ec2:spot-instance",
                "resourceArns": [f"arn:aws:ec2:us-east-1:000000000000:instance/{instance_id}"],
                "selectionMode": "ALL",
            }
        },
        "actions": {
            "interrupt": {
                "actionId": ACTION,
                "parameters": {"durationBeforeInterruption": "PT2M"},
                "targets": {"SpotInstances": "one"},
            }
        },
        **changes,
    }


def experiment(cloud: Cloud, instance_id: str, role: str) -> dict[str, Any]:
    """Run an experiment and return its state."""
    fis = cloud.client("fis")
    made = fis.create_experiment_template(**template(instance_id, role))["experimentTemplate"]
    started = fis.start_experiment(clientToken=unique("t"), experimentTemplateId=made["id"])
    fis.delete_experiment_template(id=made["id"])
    state: dict[str, Any] = fis.get_experiment(id=started["experiment"]["id"])["experiment"][
        "state"
    ]
    return state


def running(cloud: Cloud) -> str:
    instance_id = cloud.launch()
    eventually(lambda: cloud.describe(instance_id)["State"]["Name"] == "running")
    return instance_id


def notices(cloud: Cloud, instance_id: str) -> int:
    return sum(
        event["instance_id"] == instance_id and event["what"] == "notice"
        for event in cloud.admin.events()
    )


def test_an_experiment_acts_as_its_role(strict_cloud: Cloud) -> None:
    instance_id = running(strict_cloud)
    others = allow(INTERRUPT, StringEquals={"aws:ResourceTag/runctl:deployment": "another"})
    foreign = fis_role(strict_cloud, allow(INTERRUPT), source="arn:aws:fis:eu-west-1:*")
    for role, why in (
        (fis_role(strict_cloud), f"not authorized to perform: {INTERRUPT}"),
        (fis_role(strict_cloud, others), f"not authorized to perform: {INTERRUPT}"),
        (foreign, "Unable to assume role"),
        (strict_cloud.role(allow(INTERRUPT)), "Unable to assume role"),
    ):
        state = experiment(strict_cloud, instance_id, role)
        assert state["status"] == "failed"
        assert why in state["reason"]
    assert notices(strict_cloud, instance_id) == 0
    state = experiment(strict_cloud, instance_id, fis_role(strict_cloud, allow(INTERRUPT)))
    assert state["status"] == "completed"
    assert notices(strict_cloud, instance_id) == 1


def test_a_caller_needs_to_pass_the_role(strict_cloud: Cloud) -> None:
    role = fis_role(strict_cloud)
    keys = strict_cloud.assume(strict_cloud.role(allow("fis:*")))
    fis = strict_cloud.client("fis", **keys)
    with pytest.raises(ClientError, match=r"AccessDeniedException.*iam:PassRole"):
        fis.create_experiment_template(**template("i-0123456789abcdef0", role))
    keys = strict_cloud.assume(strict_cloud.role(allow("iam:PassRole")))
    fis = strict_cloud.client("fis", **keys)
    with pytest.raises(ClientError, match=r"AccessDeniedException.*fis:CreateExperimentTemplate"):
        fis.create_experiment_template(**template("i-0123456789abcdef0", role))


def test_a_client_token_makes_one_template(strict_cloud: Cloud) -> None:
    fis, request = strict_cloud.client("fis"), template("i-0123456789abcdef0", "r" * 20)
    made = [fis.create_experiment_template(**request)["experimentTemplate"]["id"] for _ in "ab"]
    assert made[0] == made[1]
    with pytest.raises(ClientError, match="ConflictException"):
        fis.create_experiment_template(**{**request, "description": "another"})
    assert fis.get_experiment_template(id=made[0])["experimentTemplate"]["description"]
    fis.delete_experiment_template(id=made[0])
    for call in (fis.get_experiment_template, fis.delete_experiment_template, fis.get_experiment):
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            call(id=made[0])


@pytest.mark.parametrize("duration", ["PT1M", "PT16M", "120", ""])
def test_durations_that_fis_refuses(strict_cloud: Cloud, duration: str) -> None:
    request = template("i-0123456789abcdef0", "r" * 20)
    request["actions"]["interrupt"]["parameters"]["durationBeforeInterruption"] = duration
    with pytest.raises(ClientError, match="ValidationException"):
        strict_cloud.client("fis").create_experiment_template(**request)
