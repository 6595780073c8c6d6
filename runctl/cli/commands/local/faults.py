"""`runctl local fail-check` and `maintain`: faults of a run's instance besides a reclaim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.invocation import Invocation, command
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem, RefusedError

if TYPE_CHECKING:
    from runctl.local.client import LocalCloudClient
    from runctl.model.run import Attempt

app = typer.Typer()

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]


def find_training(invocation: Invocation, run: str) -> tuple[LocalCloudClient, Attempt]:
    """Return the local cloud and the attempt that trains a run there."""
    from runctl.cli.cloud import find_local_cloud
    from runctl.cli.commands.find import find_run
    from runctl.local.client import LocalCloudClient
    from runctl.model.run import AttemptStage

    invocation.local = True
    cloud = invocation.cloud
    find_run(cloud, run)
    training = [one for one in cloud.ledger.attempts(run) if one.stage is AttemptStage.TRAINING]
    if not training:
        raise NotFoundError(f"no attempt of {run} is training; see `runctl status {run} --local`")
    endpoint = find_local_cloud()
    return LocalCloudClient(endpoint.url, key=endpoint.keys.admin), training[-1]


@command(app, "fail-check")
def fail_check(
    invocation: Invocation,
    run: Run,
    check: Annotated[
        str, typer.Option(metavar="CHECK", help="system, instance or ebs (default: system).")
    ] = "system",
    hang: Annotated[
        bool, typer.Option("--hang", help="Halt every process of the instance as well.")
    ] = False,
) -> None:
    """Let a status check of the instance that trains a run fail, since ten minutes ago."""
    from runctl.local.client import LocalCloudError
    from runctl.local.ec2.faults import CHECKS

    if check not in CHECKS:
        problem = f"{check!r} is not one of {', '.join(CHECKS)}"
        raise InvalidRequestError((Problem("--check", problem),))
    client, attempt = find_training(invocation, run)
    instance_id = attempt.instance_ids[0]
    try:
        client.impair(instance_id, check=check, since_seconds=600, hangs=hang)
    except LocalCloudError as exc:
        raise RefusedError(str(exc)) from exc
    halted = ", and all its processes are halted" if hang else ""
    invocation.output.result(
        {
            "run_id": run,
            "attempt": attempt.number,
            "instance_id": instance_id,
            "check": check,
            "hang": hang,
        },
        f"the {check} status check of {instance_id} (attempt {attempt.number} of {run}) "
        f"fails{halted}",
    )


@command(app, "maintain")
def maintain(
    invocation: Invocation,
    run: Run,
    code: Annotated[
        str,
        typer.Option(
            metavar="CODE",
            help="instance-retirement (the default), instance-stop, instance-reboot, "
            "system-reboot or system-maintenance.",
        ),
    ] = "instance-retirement",
    in_seconds: Annotated[
        float, typer.Option(metavar="N", min=0, help="When it is due (default: in 1200 s).")
    ] = 1200,
) -> None:
    """Schedule maintenance of the instance that trains a run."""
    from runctl.local.client import LocalCloudError
    from runctl.local.ec2.faults import CODES

    if code not in CODES:
        problem = f"{code!r} is not one of {', '.join(sorted(CODES))}"
        raise InvalidRequestError((Problem("--code", problem),))
    client, attempt = find_training(invocation, run)
    instance_id = attempt.instance_ids[0]
    try:
        event = client.schedule_maintenance(instance_id, code=code, in_seconds=in_seconds)
    except LocalCloudError as exc:
        raise RefusedError(str(exc)) from exc
    invocation.output.result(
        {
            "run_id": run,
            "attempt": attempt.number,
            "instance_id": instance_id,
            "code": code,
            "event_id": event["event_id"],
            "not_before": event["not_before"],
        },
        f"{code} of {instance_id} (attempt {attempt.number} of {run}) is due in {in_seconds:g} s",
    )
