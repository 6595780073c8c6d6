"""The permissions of an instance: data of runs, reports, and the SSM agent."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from stacks.images import pull_images
from stacks.secret_access import accept_prefixes, read_secrets
from stacks.settings import Settings
from stacks.storage import StorageStack

# The prefixes of the deployment's bucket that agents read, and those that they write.
READ = ("code", "environments", "inputs", "outputs", "runs")
WRITTEN = ("environments", "outputs", "runs")


def instance_role(
    scope: Construct, *, settings: Settings, storage: StorageStack, agent: s3_assets.Asset
) -> iam.Role:
    """Return the role of every instance of the deployment."""
    role = iam.Role(
        scope,
        "InstanceRole",
        assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
        description="The runctl agent on an instance of a run",
    )
    bucket = storage.bucket.bucket_arn
    agent_object = f"{agent.bucket.bucket_arn}/{agent.s3_object_key}"
    statements = [
        _allow(
            ["s3:GetObject"],
            [
                agent_object,
                *(f"{bucket}/{prefix}/*" for prefix in READ),
                *(f"arn:aws:s3:::{name}/*" for name in settings.readable_buckets),
            ],
        ),
        _allow(
            ["s3:PutObject", "s3:AbortMultipartUpload"],
            [
                *(f"{bucket}/{prefix}/*" for prefix in WRITTEN),
                *(f"arn:aws:s3:::{name}/*" for name in settings.writable_buckets),
            ],
        ),
        # Retention: parts and manifests of checkpoints, never code, outputs or logs.
        _allow(["s3:DeleteObject"], [f"{bucket}/runs/*/checkpoints/*"]),
        # Without it S3 answers 403 instead of 404 for a part or environment that does not exist.
        # A condition on the prefix would not help, because a GET has no prefix.
        _allow(
            ["s3:ListBucket"],
            [bucket, *(f"arn:aws:s3:::{name}" for name in settings.readable_buckets)],
        ),
        _allow(
            ["dynamodb:GetItem", "dynamodb:UpdateItem", "dynamodb:Query"],
            [storage.table.table_arn],
            {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["RUN#*"]}},
        ),
        # An instance that waits for another run of its group.
        _allow(
            ["dynamodb:GetItem", "dynamodb:UpdateItem"],
            [storage.table.table_arn],
            {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["WARM#*"]}},
        ),
        # Step Functions grants this per state machine, not per execution: only the token ties a
        # report to its attempt.
        _allow(
            ["states:SendTaskSuccess", "states:SendTaskFailure", "states:SendTaskHeartbeat"],
            [settings.state_machine_arn],
        ),
        _allow(
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [_log_streams(scope, storage.trainer_logs.log_group_name)],
        ),
        # For trials of sweeps that are pruned, and for the credentials of a run.
        _allow(
            ["lambda:InvokeFunction"],
            [
                function_arn(settings, name)
                for name in (settings.judge_function, settings.credentials_function)
            ],
        ),
        *pull_images(),
    ]
    for statement in [*statements, _receive_commands(), *read_secrets(settings)]:
        role.add_to_policy(statement)
    accept_prefixes(role, settings)
    return role


def instance_policy(scope: Construct, role: iam.Role, *, settings: Settings) -> iam.ManagedPolicy:
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
    accept_prefixes(policy, settings)
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


def _allow(
    actions: list[str],
    resources: list[str],
    conditions: dict[str, dict[str, list[str]]] | None = None,
) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=actions, resources=resources, conditions=conditions)


def function_arn(settings: Settings, name: str) -> str:
    """Return the ARN of a function by its name."""
    return f"arn:aws:lambda:{settings.region}:{settings.account}:function:{name}"


def _log_streams(scope: Construct, group: str) -> str:
    stack = Stack.of(scope)
    return f"arn:aws:logs:{stack.region}:{stack.account}:log-group:{group}:log-stream:*"
