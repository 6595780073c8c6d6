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
            help="Disk size of each instance, in memory; else they share this machine's disk.",
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
    with translated(), output.spinner("starting the local cloud") as say:
        endpoint = _start(disk_bytes)
        outputs = deploy(endpoint, project=application.folder, cdk=cdk, progress=say)
    took = (datetime.now(timezone.utc) - began).total_seconds()
    output.tell(f"the local cloud is up after {took:.0f} s; its folder is {endpoint.home}")
    health = open_client(endpoint).health()
    for line in isolation_of(health):
        output.tell(line)
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
            "environment": names,
        },
        f"{endpoint.url}\n",
        'for the AWS CLI and other tools: eval "$(runctl local env)"',
        "try: runctl --local aws train SCRIPT",
    )


def _disk_bytes(disk_gib: int | None) -> int:
    """Return the size of instances' disks, 0 for none of their own; refuse what cannot be enforced.

    It forks, so nothing may run in another thread yet.
    """
    if disk_gib is None:
        return 0
    try:
        disks.check(disk_gib * GIB)
    except ValueError as exc:
        raise InvalidRequestError((Problem("--disk-gib", str(exc)),)) from exc
    if not find() and (reason := permitted.why_no_disks()):
        raise RefusedError(
            f"--disk-gib: this machine permits no mount namespaces ({reason}), so that no size "
            "can be enforced; run it as root, or permit user namespaces"
        )
    return disk_gib * GIB


def _start(disk_bytes: int) -> Endpoint:
    """Start the local cloud, or find it running; instances that boot from now on get the disk."""
    running = find()
    if running and disk_bytes:
        client = open_client(running)
        if not client.health()["own_disks"]:
            raise RefusedError(
                "--disk-gib: the local cloud that is up was started without it; "
                "end it first: runctl local down"
            )
        client.set_knobs(disk_bytes=disk_bytes)
    return running or start(own_disks=bool(disk_bytes), disk_bytes=disk_bytes)
