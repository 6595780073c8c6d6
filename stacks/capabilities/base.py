"""What all capabilities are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aws_cdk import Stack
from aws_cdk import aws_iam as iam

from stacks.compute import ComputeStack
from stacks.settings import Settings
from stacks.storage import StorageStack

RUN_TAG = "runctl:run-id"
# Which deployment launched it: deployments in one account and region share the tags of runs.
DEPLOYMENT_TAG = "runctl:deployment"
# On a machine that a person requested, and that needs no run.
KEEP_ALIVE_TAG = "runctl:keep-alive-until"
# On a machine that its owner has lent to a deployment; the value begins with the deployment's name.
EXISTING_TAG = "runctl:lent"

# Each update of a template creates a version, and `$Latest` names it. The number would be an export
# of the compute stack, which CloudFormation refuses to change while this stack imports it.
TEMPLATE_VERSION = "$Latest"

Conditions = Mapping[str, Mapping[str, str | list[str]]]


@dataclass(frozen=True, kw_only=True)
class Capability:
    """The permissions for one resource, and the variables that locate it."""

    statements: Sequence[iam.PolicyStatement] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


class CapabilitiesBase:
    """The deployment whose resources the capabilities locate."""

    def __init__(
        self, stack: Stack, *, settings: Settings, storage: StorageStack, compute: ComputeStack
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._storage = storage
        self._compute = compute

    def _name(self) -> Mapping[str, str]:
        return {"RUNCTL_DEPLOYMENT": self._settings.name}

    def _own(self, tag: str) -> Conditions:
        """Return conditions that require a tag, with any value, and this deployment's name."""
        return {
            "StringLike": {f"aws:ResourceTag/{tag}": "*"},
            "StringEquals": {f"aws:ResourceTag/{DEPLOYMENT_TAG}": self._settings.name},
        }

    def _lent(self) -> str:
        """Return the pattern of the tag on machines that are lent to this deployment.

        IAM compares no instants in tags: the functions check until when, and reconciliation removes
        what has expired.
        """
        return f"deployment={self._settings.name} until=*"

    def _ec2(self, resource: str) -> str:
        return f"arn:aws:ec2:{self._settings.region}:{self._settings.account}:{resource}"


def allow(
    actions: Sequence[str],
    resources: Sequence[str],
    conditions: Conditions | None = None,
    *,
    sid: str | None = None,
) -> iam.PolicyStatement:
    """Return a statement that allows these actions."""
    return iam.PolicyStatement(
        sid=sid, actions=list(actions), resources=list(resources), conditions=conditions
    )
