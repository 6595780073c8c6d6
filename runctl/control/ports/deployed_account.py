"""The account of a deployment, as far as its verification reads it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runctl.model.deployed import (
    Denial,
    EncryptionKey,
    PublishedImage,
    StackResource,
    StateAnswer,
    StateMachine,
    StateTest,
    Subnet,
    Template,
)


class DeployedAccount(Protocol):
    """The account of a deployment; every call only reads, or is a simulation or a dry run.

    RefusedError when the caller lacks the permission, TransientError when AWS is throttled or
    unreachable; a resource that does not exist is None where that is a possible answer.
    """

    def resources(self) -> Sequence[StackResource]:
        """Return the resources of the deployment's stacks."""
        ...

    def denied(
        self,
        role: str,
        actions: Sequence[str],
        resources: Sequence[str],
        context: Mapping[str, Sequence[str]],
    ) -> list[Denial]:
        """Return what a role may not do, of every action on every resource."""
        ...

    def state_machine(self, arn: str) -> StateMachine:
        """Return a state machine."""
        ...

    def test_state(self, test: StateTest) -> StateAnswer:
        """Test one state."""
        ...

    def template(self, template_id: str) -> Template:
        """Return the newest version of a launch template."""
        ...

    def resolve_parameter(self, name: str) -> str | None:
        """Return the value of a parameter."""
        ...

    def image(self, image_id: str) -> PublishedImage | None:
        """Return an image."""
        ...

    def profile_role(self, arn: str) -> str | None:
        """Return the name of the role of an instance profile."""
        ...

    def refusal_of_instances(
        self, template: Template, *, instance_type: str, subnet_id: str
    ) -> tuple[str, str] | None:
        """Return code and message with which a dry run of RunInstances is refused, or None."""
        ...

    def refusal_of_fleet(
        self, template_id: str, *, instance_type: str, subnet_ids: Sequence[str]
    ) -> tuple[str, str] | None:
        """Return code and message with which a dry run of CreateFleet is refused, or None."""
        ...

    def running_instance(self, security_group: str) -> str | None:
        """Return an instance of a security group that is running, if there is one."""
        ...

    def refusal_of_termination(self, instance_id: str) -> tuple[str, str] | None:
        """Return code and message with which a dry run of TerminateInstances is refused."""
        ...

    def subnet(self, subnet_id: str) -> Subnet:
        """Return the routes of a subnet."""
        ...

    def quota(self, code: str) -> int:
        """Return the value of a quota of EC2."""
        ...

    def default_key(self) -> str:
        """Return the key with which EBS encrypts volumes for which no key is named."""
        ...

    def has_role(self, name: str) -> bool:
        """Whether the account has a role."""
        ...

    def has_log_group(self, name: str) -> bool:
        """Whether a log group exists."""
        ...

    def bucket_region(self, bucket: str) -> str | None:
        """Return the region of a bucket; None if it does not exist."""
        ...

    def bucket_policy(self, bucket: str) -> Mapping[str, Any] | None:
        """Return the policy of a bucket, if it has one."""
        ...

    def secret(self, name: str) -> str | None:
        """Return the key of a secret, empty for the usual one; None if it does not exist."""
        ...

    def parameter_key(self, name: str) -> str | None:
        """Return the key of a parameter, empty without; None if it does not exist."""
        ...

    def key(self, name: str) -> EncryptionKey | None:
        """Return a key by its id, alias or ARN."""
        ...

    def public_access(self, bucket: str) -> list[str]:
        """Return what a bucket's public access block does not block."""
        ...
