"""The role with which AWS FIS interrupts the run of `runctl verify --run`."""

from __future__ import annotations

import json

from runctl.model.role_calls import role_of
from tests.infra.templates import ACCOUNT, REGION, Resource, Role, Synthesized

INSTANCE = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-0123456789abcdef0"
INTERRUPT = "ec2:SendSpotInstanceInterruptions"


def found(app: Synthesized) -> Resource:
    (role,) = [
        each
        for each in app.of_type("AWS::IAM::Role")
        if role_of(each.logical_id) == "fault injection"
    ]
    return role


def held(app: Synthesized) -> Role:
    return app.role(f"<{found(app).logical_id}>")


def tags(**values: str) -> dict[str, list[str]]:
    names = {"run": "aws:ResourceTag/runctl:run-id", "name": "aws:ResourceTag/runctl:deployment"}
    return {names[key]: [value] for key, value in values.items()}


def test_only_experiments_of_this_account_and_region_use_the_role(app: Synthesized) -> None:
    (statement,) = found(app).properties["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "fis.amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"
    assert statement["Condition"] == {
        "StringEquals": {"aws:SourceAccount": ACCOUNT},
        "ArnLike": {"aws:SourceArn": f"arn:aws:fis:{REGION}:{ACCOUNT}:experiment/*"},
    }


def test_the_role_interrupts_only_runs_of_verify(app: Synthesized) -> None:
    role = held(app)
    assert role.actions == {INTERRUPT, "ec2:DescribeInstances"}
    assert role.allows(INTERRUPT, INSTANCE, tags(run="verify-20300101-120000-ab12", name="runctl"))
    for context in (
        tags(run="train-1", name="runctl"),
        tags(run="verify-1", name="second"),
        tags(name="runctl"),
        tags(run="verify-1"),
        {},
    ):
        assert not role.allows(INTERRUPT, INSTANCE, context)


def test_the_deployment_names_the_role(app: Synthesized) -> None:
    document = json.loads(
        app.one("AWS::SSM::Parameter", Name="/runctl/deployment").properties["Value"]
    )
    assert found(app).logical_id in document["fault_injection_role"]
