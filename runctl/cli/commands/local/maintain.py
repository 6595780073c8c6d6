"""`runctl local maintain`: scheduled maintenance of a run's instance."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.find import RunName
from runctl.cli.commands.local.local_cloud import Rank, find_training, instance_of
from runctl.cli.invocation import Invocation
from runctl.local.client import LocalCloudError
from runctl.local.ec2.faults import CODES
from runctl.model.errors import InvalidRequestError, Problem, RefusedError


def maintain(
    invocation: Invocation,
    run: RunName,
    rank: Rank = 0,
    code: Annotated[
        str,
        typer.Option(
            metavar="CODE",
            help="instance-retirement, instance-stop, instance-reboot, "
            "system-reboot or system-maintenance.",
        ),
    ] = "instance-retirement",
    in_seconds: Annotated[
        float, typer.Option(metavar="N", min=0, help="Seconds until it is due.")
    ] = 1200,
) -> None:
    """Schedule maintenance of the instance on which a run is training."""
    if code not in CODES:
        problem = f"{code!r} is not one of {', '.join(sorted(CODES))}"
        raise InvalidRequestError((Problem("--code", problem),))
    client, attempt = find_training(invocation, run)
    instance_id = instance_of(attempt, rank)
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
