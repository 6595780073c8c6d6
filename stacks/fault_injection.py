"""The role with which AWS FIS interrupts the run of `runctl verify --run`, and nothing else."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.capabilities.base import DEPLOYMENT_TAG, RUN_TAG, allow
from stacks.settings import Settings
from stacks.suppressions import accept

# What the runs of the command are called, which `runctl verify --run` has as well.
VERIFIED_RUNS = "verify-*"


def fault_injection_role(scope: Construct, settings: Settings) -> iam.Role:
    """Create the role; only experiments of this account and region may use it."""
    where = f"{settings.region}:{settings.account}"
    role = iam.Role(
        scope,
        "FaultInjectionRole",
        assumed_by=iam.ServicePrincipal(
            "fis.amazonaws.com",
            conditions={
                "StringEquals": {"aws:SourceAccount": settings.account},
                "ArnLike": {"aws:SourceArn": f"arn:aws:fis:{where}:experiment/*"},
            },
        ),
        description="AWS FIS, to interrupt the run of `runctl verify --run`",
    )
    role.add_to_policy(
        allow(
            ["ec2:SendSpotInstanceInterruptions"],
            [f"arn:aws:ec2:{where}:instance/*"],
            {
                "StringEquals": {f"aws:ResourceTag/{DEPLOYMENT_TAG}": settings.name},
                "StringLike": {f"aws:ResourceTag/{RUN_TAG}": VERIFIED_RUNS},
            },
        )
    )
    # FIS looks for its targets; the action has no resource types.
    role.add_to_policy(allow(["ec2:DescribeInstances"], ["*"]))
    accept(
        role,
        {
            "AwsSolutions-IAM5[Resource::*]": "ec2:DescribeInstances has no resource types.",
            f"AwsSolutions-IAM5[Resource::arn:aws:ec2:{where}:instance/*]": "The id of the "
            "instance is not known before it runs; its tags restrict the statement.",
        },
    )
    return role
