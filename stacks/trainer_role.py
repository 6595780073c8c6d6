"""The permissions of a trainer with credentials, which its agent narrows to its own run."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.settings import Settings
from stacks.storage import StorageStack


def trainer_role(
    scope: Construct, *, settings: Settings, storage: StorageStack, agent_role: iam.Role
) -> iam.Role:
    """Return the role that agents assume for trainers, with a session policy for the run.

    It has no permission that the agent's role lacks, so assuming it gains nothing.
    """
    role = iam.Role(
        scope,
        "TrainerRole",
        assumed_by=iam.ArnPrincipal(agent_role.role_arn),
        description="The trainer of a runctl run that requests credentials",
    )
    bucket = storage.bucket.bucket_arn
    buckets = [f"arn:aws:s3:::{name}" for name in settings.readable_buckets]
    for statement in (
        _allow(["s3:GetObject"], [f"{bucket}/runs/*", *(f"{arn}/*" for arn in buckets)]),
        _allow(["s3:PutObject", "s3:AbortMultipartUpload"], [f"{bucket}/runs/*/outputs/*"]),
        _allow(["s3:ListBucket"], [bucket, *buckets]),
    ):
        role.add_to_policy(statement)
    agent_role.add_to_policy(_allow(["sts:AssumeRole"], [role.role_arn]))
    return role


def _allow(actions: list[str], resources: list[str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=actions, resources=resources)
