"""`runctl local`: an AWS on this machine, whose instances are processes that can be interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.commands.local import faults as local_faults
from runctl.cli.commands.local.faults import find_training
from runctl.cli.invocation import Invocation, command
from runctl.model.errors import InvalidRequestError, Problem, RefusedError

if TYPE_CHECKING:
    from runctl.aws.deployment import Deployment
    from runctl.local.daemon import Endpoint

GIB = 1024**3

app = typer.Typer(no_args_is_help=True, help="The local cloud: start it, look at it, interrupt.")
app.add_typer(local_faults.app)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn the local cloud's errors into ours."""
    from runctl.local.client import LocalCloudError
    from runctl.local.core.private import FolderNotPrivateError
    from runctl.local.daemon import LocalCloudStartError
    from runctl.local.deploy import DeployError

    try:
        yield
    except (LocalCloudStartError, DeployError, LocalCloudError, FolderNotPrivateError) as exc:
        raise RefusedError(str(exc)) from exc


def _exports(endpoint: Endpoint) -> list[str]:
    """Return the lines that point the plain AWS CLI at the local cloud."""
    variables = endpoint.environment()
    groups = (
        ("AWS_ENDPOINT_URL",),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_REGION", "AWS_DEFAULT_REGION"),
    )
    return [f"export {' '.join(f'{name}={variables[name]}' for name in group)}" for group in groups]


def _names(deployment: Deployment) -> dict[str, str]:
    """Return what a person needs to name in commands of the plain AWS CLI."""
    return {"BUCKET": deployment.bucket, "STATE_MACHINE": deployment.state_machine_arn}


@command(app, "up")
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
    from runctl.application import find_cdk, open_application, require_extra
    from runctl.local.client import LocalCloudClient
    from runctl.local.deploy import deploy

    require_extra("local")
    require_extra("deploy")
    application = open_application()
    cdk = find_cdk(application)
    disk_bytes = _disk_bytes(disk_gib)
    began = datetime.now(timezone.utc)
    output = invocation.output
    with _translated(), output.spinner("starting the local cloud") as say:
        endpoint = _start(disk_bytes)
        outputs = deploy(endpoint, project=application.folder, cdk=cdk, progress=say)
    took = (datetime.now(timezone.utc) - began).total_seconds()
    output.tell(f"the local cloud is up after {took:.0f} s; its folder is {endpoint.home}")
    health = LocalCloudClient(endpoint.url, key=endpoint.keys.admin).health()
    for line in _isolation(health):
        output.tell(line)
    invocation.local = True
    names = _names(invocation.cloud.deployment)
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


@command(app, "env")
def env(invocation: Invocation) -> None:
    """Print the variables that point AWS tools at the local cloud, with its keys."""
    from runctl.cli.cloud import find_local_cloud

    endpoint = find_local_cloud()
    names: dict[str, str] = {}
    if _deployed_stacks(endpoint):
        invocation.local = True
        names = _names(invocation.cloud.deployment)
    lines = [*_exports(endpoint), *(f"export {name}={value}" for name, value in names.items())]
    invocation.output.result({**endpoint.environment(), **names}, "\n".join(lines))


def _disk_bytes(disk_gib: int | None) -> int:
    """Return the size of instances' disks, 0 for none of their own; refuse what cannot be enforced.

    It forks, so nothing may run in another thread yet.
    """
    from runctl.local.daemon import find
    from runctl.local.ec2 import disks
    from runctl.local.guest import permitted

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
    from runctl.local.client import LocalCloudClient
    from runctl.local.daemon import find, start

    running = find()
    if running and disk_bytes:
        client = LocalCloudClient(running.url, key=running.keys.admin)
        if not client.health()["own_disks"]:
            raise RefusedError(
                "--disk-gib: the local cloud that is up was started without it; "
                "end it first: runctl local down"
            )
        client.set_knobs(disk_bytes=disk_bytes)
    return running or start(own_disks=bool(disk_bytes), disk_bytes=disk_bytes)


def _isolation(health: dict[str, Any]) -> Iterator[str]:
    """Say what instances have of their own, and what they share with this machine."""
    size = health["disk_bytes"]
    yield (
        f"each instance has a disk of {size / GIB:g} GiB"
        if size
        else ("instances share this machine's disk")
    )
    if not health["own_paths"]:
        yield (
            "instances have other checkpoint paths than on EC2 and share this machine's /tmp: "
            f"{health['shares_paths_because']}"
        )


@command(app, "down")
def down(invocation: Invocation) -> None:
    """End the local cloud with all its instances; its runs are gone with it."""
    from runctl.local.daemon import default_home, stop

    with _translated(), invocation.output.spinner("ending the local cloud"):
        was_up = stop()
    told = "the local cloud is down" if was_up else f"no local cloud ran in {default_home()}"
    invocation.output.result({"was_up": was_up}, told)


@command(app, "status")
def status(invocation: Invocation) -> None:
    """Show the local cloud: where it is, what is deployed, which instances it has."""
    from rich.table import Table

    from runctl.cli.cloud import find_local_cloud
    from runctl.local.client import LocalCloudClient
    from runctl.model.identity import ATTEMPT_TAG, RUN_TAG
    from runctl.report.wording import say_duration

    endpoint = find_local_cloud()
    client = LocalCloudClient(endpoint.url, key=endpoint.keys.admin)
    with _translated():
        health, instances = client.health(), client.instances()
    began = datetime.fromtimestamp((endpoint.home / "endpoint.json").stat().st_mtime, timezone.utc)
    uptime = datetime.now(timezone.utc) - began
    live = [one for one in instances if one["state"] != "terminated"]
    stacks = _deployed_stacks(endpoint)
    invocation.local = True
    names = _names(invocation.cloud.deployment) if stacks else {}
    document: dict[str, Any] = {
        "endpoint": endpoint.url,
        "home": str(endpoint.home),
        "pid": endpoint.pid,
        "uptime_seconds": round(uptime.total_seconds()),
        "health": health,
        "stacks": stacks,
        "names": names,
        "instances": live,
        "terminated": len(instances) - len(live),
    }
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("instance", "state", "pool", "run", "attempt"):
        table.add_column(heading, overflow="fold")
    for one in live:
        tags = one.get("tags", {})
        cells = (one["instance_id"], one["state"], one.get("pool", ""))
        table.add_row(*cells, tags.get(RUN_TAG, ""), tags.get(ATTEMPT_TAG, ""))
    isolation = list(_isolation(health))
    told = f"{endpoint.url}, up for {say_duration(uptime)} (process {endpoint.pid})"
    deployed = f"deployed: {', '.join(stacks)}" if stacks else "nothing is deployed"
    ended = f"{len(instances) - len(live)} instances have been terminated"
    named = [f"{name}={value}" for name, value in names.items()]
    invocation.output.result(
        document,
        told,
        deployed,
        *named,
        *isolation,
        table if live else "no instance is running",
        ended,
    )


def _deployed_stacks(endpoint: Endpoint) -> list[str]:
    import json

    try:
        outputs = json.loads((endpoint.home / "outputs.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return sorted(outputs)


@command(app, "interrupt")
def interrupt(
    invocation: Invocation,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    no_notice: Annotated[
        bool, typer.Option("--no-notice", help="Take the instance without a word.")
    ] = False,
    notice_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            max=3600,
            help="How long before the instance is taken (default: 120).",
        ),
    ] = None,
    reservation: Annotated[
        bool,
        typer.Option("--reservation", help="Take it for its capacity reservation: only an event."),
    ] = False,
) -> None:
    """Let EC2 reclaim the instance that trains a run."""
    if no_notice and reservation:
        problem = "there is always a notice with --reservation; leave one of the two out"
        raise InvalidRequestError((Problem("--no-notice", problem),))
    if no_notice and notice_seconds is not None:
        problem = "there is no notice with --no-notice; leave one of the two out"
        raise InvalidRequestError((Problem("--notice-seconds", problem),))
    seconds = 120 if notice_seconds is None else notice_seconds
    client, attempt = find_training(invocation, run)
    instance_id = attempt.instance_ids[0]
    with _translated():
        if reservation:
            client.end_reservation(instance_id, notice_seconds=seconds)
        else:
            client.interrupt(instance_id, notice=not no_notice, notice_seconds=seconds)
    how = "without a notice" if no_notice else f"{seconds:g} s after its notice"
    invocation.output.result(
        {
            "run_id": run,
            "attempt": attempt.number,
            "instance_id": instance_id,
            "notice": not no_notice,
            "reservation": reservation,
            "notice_seconds": None if no_notice else seconds,
        },
        f"{instance_id} (attempt {attempt.number} of {run}) is reclaimed {how}",
    )


@command(app, "capacity")
def capacity(
    invocation: Invocation,
    pool: Annotated[
        str, typer.Argument(metavar="POOL", help="m5.large/us-east-1a/spot; * is every other pool.")
    ],
    count: Annotated[int, typer.Argument(metavar="N", min=0, help="How many instances it holds.")],
) -> None:
    """Set how many instances a capacity pool holds."""
    from runctl.cli.cloud import find_local_cloud
    from runctl.local.client import LocalCloudClient, LocalCloudError
    from runctl.model.pool import Pool

    if pool != "*":
        try:
            Pool.parse(pool)
        except ValueError as exc:
            raise InvalidRequestError((Problem("POOL", str(exc)),)) from exc
    endpoint = find_local_cloud()
    client = LocalCloudClient(endpoint.url, key=endpoint.keys.admin)
    try:
        client.set_capacity(pool, count)
    except LocalCloudError as exc:
        raise InvalidRequestError((Problem("POOL", str(exc).removeprefix("pool: ")),)) from exc
    invocation.output.result({"pool": pool, "capacity": count}, f"{pool} holds {count}")


@command(app, "quota")
def quota(
    invocation: Invocation,
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="L-34B43A08 is Spot of the standard families.")
    ],
    vcpus: Annotated[int, typer.Argument(metavar="N", min=0, help="How many vCPUs it allows.")],
) -> None:
    """Set how many vCPUs the account may run of a quota."""
    from runctl.cli.cloud import find_local_cloud
    from runctl.local.client import LocalCloudClient, LocalCloudError
    from runctl.model.quota import QUOTAS

    endpoint = find_local_cloud()
    client = LocalCloudClient(endpoint.url, key=endpoint.keys.admin)
    try:
        client.set_quota(code, vcpus)
    except LocalCloudError as exc:
        raise InvalidRequestError(
            (Problem("CODE", str(exc).removeprefix("vcpu_quotas: ")),)
        ) from exc
    invocation.output.result(
        {"code": code, "name": QUOTAS[code].name, "vcpus": vcpus},
        f"{QUOTAS[code]} is {vcpus} vCPUs",
    )
