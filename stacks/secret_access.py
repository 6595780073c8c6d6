"""Access to secrets: only to those that the CDK context lists."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.settings import Settings
from stacks.suppressions import accept


def read_secrets(settings: Settings) -> list[iam.PolicyStatement]:
    """Return the permissions to read the secrets that the context lists, if any."""
    listed = settings.readable_secrets
    # Only through the two services: this permission alone does not suffice to decrypt.
    services = [
        f"{service}.{settings.region}.amazonaws.com" for service in ("secretsmanager", "ssm")
    ]
    statements = {
        "secretsmanager:GetSecretValue": (listed.secrets, None),
        "ssm:GetParameter": (listed.parameters, None),
        "kms:Decrypt": (listed.keys, {"StringEquals": {"kms:ViaService": services}}),
    }
    return [
        iam.PolicyStatement(actions=[action], resources=list(arns), conditions=conditions)
        for action, (arns, conditions) in statements.items()
        if arns
    ]


def accept_prefixes(construct: Construct, settings: Settings) -> None:
    """Accept the wildcards with which the deployment's owner lists secrets by prefix."""
    listed = settings.readable_secrets
    reasons = {
        f"AwsSolutions-IAM5[Resource::{arn}]": "The deployment's owner lists secrets by prefix."
        for arn in (*listed.secrets, *listed.parameters)
        if "*" in arn
    }
    if reasons:
        accept(construct, reasons)
