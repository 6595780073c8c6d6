"""What `verify` reads of an account: resources, policies, states, templates, images, routes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StackResource:
    """A resource of one of the deployment's stacks."""

    logical_id: str
    physical_id: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Denial:
    """An action that a role's policies do not allow; `missing` are condition keys without value."""

    action: str
    resource: str
    decision: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StateMachine:
    """A state machine as it is deployed."""

    arn: str
    definition: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StateTest:
    """A state to test by itself, as Step Functions' TestState takes it.

    `result` and `error` (name and cause) are mocks, at most one of them; `tries` says how often the
    error was retried before.
    """

    state: Mapping[str, Any]
    data: Any
    variables: Mapping[str, Any]
    result: Any = None
    error: tuple[str, str] | None = None
    tries: int = 0
    context: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class StateAnswer:
    """What became of a state; `status` is SUCCEEDED, FAILED, RETRIABLE or CAUGHT_ERROR."""

    status: str
    output: Any = None
    next_state: str = ""
    error: str = ""
    cause: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Template:
    """The newest version of a launch template, in the words of EC2's LaunchTemplateData."""

    template_id: str
    data: Mapping[str, Any]

    @property
    def image(self) -> str:
        """The image, or `resolve:ssm:` and a parameter."""
        return str(self.data.get("ImageId", ""))

    @property
    def root_volume(self) -> Mapping[str, Any]:
        """The settings of the only volume, the root volume."""
        mapping = (self.data.get("BlockDeviceMappings") or [{}])[0]
        volume: Mapping[str, Any] = mapping.get("Ebs") or {}
        return volume

    @property
    def root_device(self) -> str:
        """The name of the root device."""
        mapping = (self.data.get("BlockDeviceMappings") or [{}])[0]
        return str(mapping.get("DeviceName", ""))

    @property
    def interface(self) -> Mapping[str, Any]:
        """The settings of the network interface."""
        found: Mapping[str, Any] = (self.data.get("NetworkInterfaces") or [{}])[0]
        return found


@dataclass(frozen=True, kw_only=True)
class PublishedImage:
    """An image that EC2 has."""

    image_id: str
    state: str
    root_device: str
    made_at: datetime | None = None
    deprecated_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class EncryptionKey:
    """A key of KMS; `is_of_customer`: its use needs a permission, unlike that of AWS's own."""

    arn: str
    state: str
    is_of_customer: bool


@dataclass(frozen=True, kw_only=True)
class Route:
    """A route out of a subnet: its destination, its target, and whether the target exists."""

    destination: str
    target: str
    is_active: bool


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """A subnet: its routes, and the services that its VPC reaches through endpoints."""

    subnet_id: str
    routes: tuple[Route, ...]
    endpoints: frozenset[str]
