"""`runctl local up`: start the local cloud and deploy runctl onto it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.application import find_cdk, open_application, require_extra
from runctl.cli.commands.local.local_cloud import (
    GIB,
    isolation_of,
    names_of,
    open_client,
    translated,
)
from runctl.cli.invocation import Invocation
from runctl.local.daemon import find, start
from runctl.local.deploy import deploy
from runctl.local.ec2 import disks
from runctl.local.guest import permitted
from runctl.model.errors import InvalidRequestError, Problem, RefusedError

if TYPE_CHECKING:
    from runctl.local.daemon import Endpoint


def up(
    invocation: Invocation,
    disk_gib: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=16384,
            help="Size in GiB of each instance's disk, held in memory (default: instances share "
            "this machine's disk).",
        ),
    ] = None,
    own_user: Annotated[
        bool | None,
        typer.Option(
            "--own-user/--no-own-user",
            help="Whether programs run as a user of their own, which needs root (default: where "
            "possible).",
        ),
    ] = None,
) -> None:
    """Start the local cloud and deploy runctl onto it."""
    require_extra("local")
    require_extra("deploy")
    application = open_application()
    cdk = find_cdk(application)
    disk_bytes = _disk_bytes(disk_gib)
    began = datetime.now(timezone.utc)
    output = invocation.output
    with translated(), output.spinner("starting the local cloud") as update:
        endpoint = _start(disk_bytes, own_user)
        outputs = deploy(endpoint, project=application.folder, cdk=cdk, progress=update)
    took = (datetime.now(timezone.utc) - began).total_seconds()
    output.note(f"the local cloud is running after {took:.0f} s in {endpoint.home}")
    health = open_client(endpoint).health()
    for line in isolation_of(health):
        output.note(line)
    invocation.local = True
    names = names_of(invocation.cloud.deployment)
    output.result(
        {
            "endpoint": endpoint.url,
            "region": endpoint.region,
            "account": endpoint.account,
            "home": str(endpoint.home),
            "stacks": sorted(outputs),
            "disk_bytes": health["disk_bytes"],
            "own_paths": health["own_paths"],
            "own_user": health["own_user"],
            "environment": names,
        },
        f"{endpoint.url}\n",
        'for the AWS CLI and other tools: eval "$(runctl local env)"',
        "try: `runctl --local aws train SCRIPT`",
    )


def _disk_bytes(disk_gib: int | None) -> int:
    """Return the size of instances' disks, 0 to share this machine's.

    Raises RefusedError if a size cannot be enforced. This forks, so no other thread may be running.
    """
    if disk_gib is None:
        return 0
    try:
        disks.check(disk_gib * GIB)
    except ValueError as exc:
        raise InvalidRequestError((Problem("--disk-gib", str(exc)),)) from exc
    if not find() and (reason := permitted.why_no_disks()):
        raise RefusedError(
            f"--disk-gib: this machine does not permit mount namespaces ({reason}), which enforce "
            "the size; run as root, or permit user namespaces"
        )
    return disk_gib * GIB


def _start(disk_bytes: int, own_user: bool | None) -> Endpoint:
    """Start the local cloud unless it is running; the settings hold for new instances."""
    running = find()
    if running and disk_bytes:
        client = open_client(running)
        if not client.health()["own_disks"]:
            raise RefusedError(
                "--disk-gib: the running local cloud was started without it; stop it first with "
                "`runctl local down`"
            )
        client.set_knobs(disk_bytes=disk_bytes)
    if running and own_user is not None:
        open_client(running).set_knobs(own_user=own_user)
    return running or start(own_disks=bool(disk_bytes), disk_bytes=disk_bytes, own_user=own_user)
