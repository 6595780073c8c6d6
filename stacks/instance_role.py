"""The permissions of an instance: to fetch the agent, to ask for a session, and the SSM agent's."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from stacks.settings import Settings


def instance_role(scope: Construct, *, settings: Settings, agent: s3_assets.Asset) -> iam.Role:
    """Return the role of every instance of the deployment."""
    role = iam.Role(
        scope,
        "InstanceRole",
        assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
        description="The runctl agent on an instance of a run",
    )
    agent_object = f"{agent.bucket.bucket_arn}/{agent.s3_object_key}"
    for statement in (
        _allow(["s3:GetObject"], [agent_object]),
        # Everything else is permitted to the sessions that this function issues.
        _allow(["lambda:InvokeFunction"], [function_arn(settings, settings.credentials_function)]),
        _receive_commands(),
    ):
        role.add_to_policy(statement)
    return role


def instance_policy(scope: Construct, role: iam.Role) -> iam.ManagedPolicy:
    """Return a policy with the same permissions, for the roles of existing instances."""
    policy = iam.ManagedPolicy(
        scope,
        "InstancePolicy",
        description="The permissions of the runctl agent on an instance that runctl did not launch",
    )
    inline = role.node.find_child("DefaultPolicy")
    assert isinstance(inline, iam.Policy)
    for statement in inline.document.to_json()["Statement"]:
        policy.add_statements(iam.PolicyStatement.from_json(statement))
    return policy


def _receive_commands() -> iam.PolicyStatement:
    """Return the permissions that the SSM agent needs to receive commands."""
    # The managed policy would add ssm:GetParameter on every parameter of the account.
    return _allow(
        [
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
            "ec2messages:AcknowledgeMessage",
            "ec2messages:DeleteMessage",
            "ec2messages:FailMessage",
            "ec2messages:GetEndpoint",
            "ec2messages:GetMessages",
            "ec2messages:SendReply",
        ],
        ["*"],
    )


def _allow(actions: list[str], resources: list[str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=actions, resources=resources)


def function_arn(settings: Settings, name: str) -> str:
    """Return the ARN of a function by its name."""
    return f"arn:aws:lambda:{settings.region}:{settings.account}:function:{name}"
