"""The local cloud as its commands use it: client, errors, deployment and isolation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.commands.find import find_run
from runctl.cli.endpoint import find_local_cloud
from runctl.cli.invocation import Invocation
from runctl.local.client import LocalCloudClient, LocalCloudError
from runctl.local.core.private import FolderNotPrivateError
from runctl.local.daemon import LocalCloudStartError
from runctl.local.deploy import DeployError
from runctl.model.errors import NotFoundError, RefusedError
from runctl.model.run import AttemptStage

if TYPE_CHECKING:
    from runctl.aws.deployment import Deployment
    from runctl.local.daemon import Endpoint
    from runctl.model.run import Attempt


GIB = 1024**3


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise the local cloud's errors as RefusedError."""
    try:
        yield
    except (LocalCloudStartError, DeployError, LocalCloudError, FolderNotPrivateError) as exc:
        raise RefusedError(str(exc)) from exc


def open_client(endpoint: Endpoint) -> LocalCloudClient:
    """Return the administrator's client of a running local cloud."""
    return LocalCloudClient(endpoint.url, key=endpoint.keys.admin)


def names_of(deployment: Deployment) -> dict[str, str]:
    """Return the names that commands of the plain AWS CLI need."""
    return {"BUCKET": deployment.bucket, "STATE_MACHINE": deployment.state_machine_arn}


def isolation_of(health: dict[str, Any]) -> Iterator[str]:
    """Yield sentences about what instances have of their own, and what they share."""
    size = health["disk_bytes"]
    yield (
        f"each instance has a disk of {size / GIB:g} GiB"
        if size
        else "instances share this machine's disk"
    )
    if not health["own_paths"]:
        yield (
            "instances have other checkpoint paths than on EC2 and share this machine's /tmp: "
            f"{health['shares_paths_because']}"
        )
    if health["own_user"]:
        yield "programs have a user of their own, to whom folders such as /root stay closed"
    else:
        reason = health["shares_user_because"] or "the knob own_user is off"
        yield (
            f"programs run as the user of the local cloud ({reason}): nothing keeps them from this "
            "user's files, from the agents, and from the credentials of every run here"
        )
    if not health["has_engine"]:
        yield f"instances have no Docker engine: {health['no_engine_because']}"


def deployed_stacks(endpoint: Endpoint) -> list[str]:
    """Return the names of the stacks that are deployed, sorted."""
    try:
        outputs = json.loads((endpoint.home / "outputs.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return sorted(outputs)


Rank = Annotated[
    int, typer.Option(metavar="N", min=0, help="The node of this rank, of a run of several nodes.")
]


def instance_of(attempt: Attempt, rank: int) -> str:
    """Return the instance of a node; raises NotFoundError if the attempt has no such node."""
    instances = {node.rank: node.instance_id for node in attempt.nodes if node.instance_id}
    if rank not in instances:
        known = ", ".join(map(str, sorted(instances))) or "none"
        raise NotFoundError(
            f"attempt {attempt.number} of {attempt.run_id} has no node of rank {rank}; its ranks "
            f"are {known}"
        )
    return instances[rank]


def find_training(invocation: Invocation, run: str) -> tuple[LocalCloudClient, Attempt]:
    """Return the local cloud's client, and the attempt of the run that is training there."""
    invocation.local = True
    cloud = invocation.cloud
    find_run(cloud, run)
    attempts = cloud.ledger.attempts(run)
    training = [attempt for attempt in attempts if attempt.stage is AttemptStage.RUNNING]
    if not training:
        see = f"`runctl status {run}`"
        raise NotFoundError(f"no attempt of {run} runs its program; see {see}")
    return open_client(find_local_cloud()), training[-1]
