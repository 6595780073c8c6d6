"""What a deployment is told by the CDK context, checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from constructs import Node

PROJECT = Path(__file__).resolve().parents[1]

# Without credentials there is nothing to deploy to: what is synthesized then is for looking at, and
# for the local cloud, whose account this is.
LOCAL_ACCOUNT = "000000000000"
DEFAULT_REGION = "us-east-1"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_ACCOUNT = re.compile(r"\d{12}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_IMAGE_ID = re.compile(r"ami-[0-9a-f]{8,17}")

# The parameters by which the publishers of the images name the newest one.
IMAGES: Mapping[str, str] = {
    "x86_gpu": "/aws/service/deeplearning/ami/x86_64/"
    "base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
    "x86_cpu": "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    "arm_cpu": "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
}


class BadContextError(ValueError):
    """A context value cannot be used; the message names it and the cure."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One deployment: where, under which name, and what it may differ in.

    `zones` is empty when they are to be looked up. `images` maps each kind of machine to a public
    SSM parameter (it starts with `/`) or to an AMI id.
    """

    name: str
    account: str
    region: str
    zones: tuple[str, ...] = ()
    vpc_id: str = ""
    readable_buckets: tuple[str, ...] = ()
    images: Mapping[str, str]
    version: str

    @property
    def state_machine_arn(self) -> str:
        """The state machine's ARN, known before it exists, so that no stack waits for another."""
        return f"arn:aws:states:{self.region}:{self.account}:stateMachine:{self.state_machine_name}"

    @property
    def state_machine_name(self) -> str:
        """The state machine's name."""
        return f"{self.name}-train"

    @property
    def command_document(self) -> str:
        """The name of the SSM document that speaks to the agent."""
        return f"{self.name}-agent"

    @property
    def start_document(self) -> str:
        """The name of the SSM document that starts the agent on a machine that is there already."""
        return f"{self.name}-start"

    @property
    def monitor_document(self) -> str:
        """The name of the SSM document that starts a watch over a process of somebody's."""
        return f"{self.name}-monitor"


def read_settings(node: Node, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the context, with the account and region of the CDK's credentials as defaults.

    Raises BadContextError for a value that cannot work, before anything is synthesized.
    """

    def value(key: str, default: str, rule: re.Pattern[str]) -> str:
        found = str(node.try_get_context(key) or default)
        if not rule.fullmatch(found):
            raise BadContextError(f"context {key}: {found!r} does not match {rule.pattern}")
        return found

    account = value("account", environ.get("CDK_DEFAULT_ACCOUNT") or LOCAL_ACCOUNT, _ACCOUNT)
    region = value("region", environ.get("CDK_DEFAULT_REGION") or DEFAULT_REGION, _REGION)
    images = {
        kind: _image(f"image_{kind}", str(node.try_get_context(f"image_{kind}") or known))
        for kind, known in IMAGES.items()
    }
    zones = _names(node.try_get_context("zones"))
    if elsewhere := [zone for zone in zones if not zone.startswith(region)]:
        raise BadContextError(f"context zones: {', '.join(elsewhere)} is not in {region}")
    return Settings(
        name=value("name", "runctl", _NAME),
        account=account,
        region=region,
        zones=zones,
        vpc_id=str(node.try_get_context("vpc_id") or ""),
        readable_buckets=_names(node.try_get_context("readable_buckets")),
        images=images,
        version=_version(),
    )


def _image(key: str, found: str) -> str:
    if found.startswith("/") or _IMAGE_ID.fullmatch(found):
        return found
    raise BadContextError(f"context {key}: {found!r} is neither an AMI id nor an SSM parameter")


def _names(found: Any) -> tuple[str, ...]:
    """Read a list of cdk.json, or `a,b` of `-c key=a,b`."""
    parts = found.split(",") if isinstance(found, str) else (found or [])
    return tuple(sorted({str(part).strip() for part in parts} - {""}))


def _version() -> str:
    # Read, not imported: stacks import no runtime code.
    text = (PROJECT / "runctl/__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise BadContextError("runctl/__init__.py does not tell its version")
    return found[1]
