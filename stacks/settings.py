"""The settings of a deployment, read from the CDK context and validated once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stacks.disks import Disk, read_disk, root_device
from stacks.errors import BadContextError
from stacks.limits import Limits, read_limits
from stacks.readable_secrets import ReadableSecrets, read_readable_secrets

if TYPE_CHECKING:
    from constructs import Node

PROJECT = Path(__file__).resolve().parents[1]


def package_root(project: Path = PROJECT) -> Path:
    """Return the folder that contains the package runctl: the checkout, or site-packages.

    A wheel contains the project inside the package, in `runctl/cdk_app`.
    """
    return project if (project / "runctl").is_dir() else project.parents[1]


# Without credentials there is no account to deploy to: the result of the synthesis is then only for
# inspection, or for the local cloud, which has this account.
LOCAL_ACCOUNT = "000000000000"
DEFAULT_REGION = "us-east-1"

# The platform of functions in AWS: the machine, and the version of Python. On a local cloud it is
# that of the machine that runs it.
LAMBDA_PLATFORM = "aarch64-3.13"
FUNCTION_PLATFORM = re.compile(r"(x86_64|aarch64)-3\.(\d+)")

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_ACCOUNT = re.compile(r"\d{12}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_IMAGE_ID = re.compile(r"ami-[0-9a-f]{8,17}")
_VPC = re.compile(r"vpc-[0-9a-f]{8,17}")
_SUBNET = re.compile(r"subnet-[0-9a-f]{8,17}")
# Local Zones (us-west-2-lax-1a) and Wavelength zones (us-east-1-wl1-bos-wlz-1) have longer names.
_ZONE_LETTER = re.compile(r"[a-z]")
# S3 rounds up to the next midnight, so 0 would be 1.
_MAX_KEPT_DAYS = 365

# The SSM parameters with the newest image, by its publisher.
IMAGES: Mapping[str, str] = {
    "x86_gpu": "/aws/service/deeplearning/ami/x86_64/"
    "base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
    "x86_cpu": "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    "arm_cpu": "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one deployment.

    `zones` is empty if they are to be looked up. `images` maps each kind of machine to a public SSM
    parameter (which starts with `/`) or to an AMI id, `root_devices` to the root device of that
    image. With `bytecode`, agents run with the Python that synthesizes. `subnet_ids` is empty if
    the subnets follow from the VPC. `writable_buckets` are among the `readable_buckets`.
    """

    name: str
    account: str
    region: str
    zones: tuple[str, ...] = ()
    vpc_id: str = ""
    subnet_ids: tuple[str, ...] = ()
    readable_buckets: tuple[str, ...] = ()
    writable_buckets: tuple[str, ...] = ()
    readable_secrets: ReadableSecrets = field(default_factory=ReadableSecrets)
    images: Mapping[str, str]
    root_devices: Mapping[str, str]
    disk: Disk = field(default_factory=Disk)
    kept_days: int = 1
    docker_hub_secret: str = ""
    environment_days: int = 30
    function_platform: str = LAMBDA_PLATFORM
    bytecode: bool = False
    limits: Limits = field(default_factory=Limits)
    version: str

    @property
    def own_images(self) -> tuple[str, ...]:
        """The kinds of machines whose image differs from the default."""
        return tuple(kind for kind, image in self.images.items() if image != IMAGES[kind])

    @property
    def state_machine_arn(self) -> str:
        """The ARN of the state machine of runs."""
        return self.machine_arn("train")

    @property
    def sweep_machine_arn(self) -> str:
        """The ARN of the state machine of hyperparameter sweeps."""
        return self.machine_arn("sweep")

    @property
    def process_machine_arn(self) -> str:
        """The ARN of the state machine of processing jobs over several instances."""
        return self.machine_arn("process")

    def machine_arn(self, definition: str) -> str:
        """Return a state machine's ARN before it exists, so no stack depends on another."""
        name = self.machine_name(definition)
        return f"arn:aws:states:{self.region}:{self.account}:stateMachine:{name}"

    def machine_name(self, definition: str) -> str:
        """Return the name of the state machine with a definition."""
        return f"{self.name}-{definition}"

    @property
    def judge_function(self) -> str:
        """The name of the function that agents of trials ask."""
        return f"{self.name}-judge_trial"

    @property
    def credentials_function(self) -> str:
        """The name of the function from which instances get the credentials of their runs."""
        return f"{self.name}-issue_credentials"

    @property
    def command_document(self) -> str:
        """The name of the SSM document with commands for the agent."""
        return f"{self.name}-agent"

    @property
    def start_document(self) -> str:
        """The name of the SSM document that starts the agent on an existing instance."""
        return f"{self.name}-start"

    @property
    def monitor_document(self) -> str:
        """The name of the SSM document that monitors a process that runctl did not start."""
        return f"{self.name}-monitor"


def read_settings(node: Node, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the context; account and region default to those of the CDK's credentials.

    Raises BadContextError for an invalid value, before anything is synthesized.
    """

    def text(key: str, default: str = "") -> str:
        found = node.try_get_context(key)
        return default if found is None or found == "" else str(found)

    def value(key: str, default: str, rule: re.Pattern[str]) -> str:
        found = text(key, default)
        if not rule.fullmatch(found):
            raise BadContextError(f"context {key}: {found!r} does not match {rule.pattern}")
        return found

    account = value("account", environ.get("CDK_DEFAULT_ACCOUNT") or LOCAL_ACCOUNT, _ACCOUNT)
    region = value("region", environ.get("CDK_DEFAULT_REGION") or DEFAULT_REGION, _REGION)
    images = {
        kind: _image(f"image_{kind}", text(f"image_{kind}", known))
        for kind, known in IMAGES.items()
    }
    disk_keys = ("ebs_kms_key", "disk_throughput", "disk_initialization_rate")
    return Settings(
        name=value("name", "runctl", _NAME),
        account=account,
        region=region,
        zones=_zones(_names(node.try_get_context("zones")), region),
        vpc_id=value("vpc_id", "", re.compile(rf"({_VPC.pattern})?")),
        subnet_ids=_subnets(_names(node.try_get_context("subnet_ids")), text("vpc_id")),
        readable_buckets=_names(
            [
                *_names(node.try_get_context("readable_buckets")),
                *_names(node.try_get_context("writable_buckets")),
            ]
        ),
        writable_buckets=_names(node.try_get_context("writable_buckets")),
        readable_secrets=read_readable_secrets(
            {
                key: _names(node.try_get_context(key))
                for key in ("secrets", "parameters", "secret_keys")
            },
            account=account,
            region=region,
        ),
        images=images,
        root_devices={
            kind: root_device(kind, image, text(f"root_device_{kind}"))
            for kind, image in images.items()
        },
        disk=read_disk({key: text(key) for key in disk_keys}, region=region),
        docker_hub_secret=_docker_hub_secret(text("docker_hub_secret"), region),
        kept_days=_days("keep_deleted_days", text("keep_deleted_days", "1")),
        environment_days=_days("keep_environment_days", text("keep_environment_days", "30")),
        function_platform=value("function_platform", LAMBDA_PLATFORM, FUNCTION_PLATFORM),
        bytecode=value("bytecode", "false", re.compile("true|false")) == "true",
        limits=read_limits(
            _names(node.try_get_context("allowed_instance_types")), text("max_instances")
        ),
        version=_version(),
    )


def is_own_zone(zone: str, region: str) -> bool:
    """Whether a zone is an Availability Zone of the region, not a Local or Wavelength zone.

    Those have few instance types and other prices, and lookups include them once they are enabled.
    """
    return bool(_ZONE_LETTER.fullmatch(zone.removeprefix(region)))


def _zones(zones: tuple[str, ...], region: str) -> tuple[str, ...]:
    if elsewhere := [zone for zone in zones if not zone.startswith(region)]:
        raise BadContextError(f"context zones: {', '.join(elsewhere)} is not in {region}")
    if others := [zone for zone in zones if not is_own_zone(zone, region)]:
        raise BadContextError(
            f"context zones: {', '.join(others)} is not an Availability Zone of {region} (e.g. "
            f"{region}a); Local Zones and Wavelength zones cannot be used"
        )
    return zones


def _subnets(subnet_ids: tuple[str, ...], vpc_id: str) -> tuple[str, ...]:
    for subnet_id in subnet_ids:
        if not _SUBNET.fullmatch(subnet_id):
            raise BadContextError(
                f"context subnet_ids: {subnet_id!r} is not a subnet id (e.g. subnet-0123abcd)"
            )
    if subnet_ids and not vpc_id:
        raise BadContextError(
            f"context subnet_ids: {', '.join(subnet_ids)} without vpc_id; set vpc_id as well"
        )
    return subnet_ids


def _days(key: str, found: str) -> int:
    if not found.isdecimal() or not 1 <= int(found) <= _MAX_KEPT_DAYS:
        raise BadContextError(f"context {key}: {found!r} is not 1 to {_MAX_KEPT_DAYS} days")
    return int(found)


def _docker_hub_secret(found: str, region: str) -> str:
    """Check the ARN of the Docker Hub login, which ECR accepts only under this prefix."""
    rule = rf"arn:aws[a-z-]*:secretsmanager:{region}:\d{{12}}:secret:ecr-pullthroughcache/\S+"
    if found and not re.fullmatch(rule, found):
        raise BadContextError(
            f"context docker_hub_secret: {found!r} is not the ARN of a secret of {region} whose "
            "name begins with ecr-pullthroughcache/ (its value: username and accessToken)"
        )
    return found


def _image(key: str, found: str) -> str:
    if found.startswith("/") or _IMAGE_ID.fullmatch(found):
        return found
    raise BadContextError(f"context {key}: {found!r} is neither an AMI id nor an SSM parameter")


def _names(found: Any) -> tuple[str, ...]:
    """Read a list from cdk.json, or `a,b` from `-c key=a,b`."""
    parts = found.split(",") if isinstance(found, str) else (found or [])
    return tuple(sorted({str(part).strip() for part in parts} - {""}))


def _version() -> str:
    # Read, not imported: stacks import no runtime code.
    text = (package_root() / "runctl/__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise BadContextError("runctl/__init__.py contains no version")
    return found[1]
