"""`runctl local fail-check`: a failing status check of a run's instance."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.find import RunName
from runctl.cli.commands.local.local_cloud import Rank, find_training, instance_of
from runctl.cli.invocation import Invocation
from runctl.local.client import LocalCloudError
from runctl.local.ec2.faults import CHECKS
from runctl.model.errors import InvalidRequestError, Problem, RefusedError


def fail_check(
    invocation: Invocation,
    run: RunName,
    rank: Rank = 0,
    check: Annotated[
        str, typer.Option(metavar="CHECK", help="system, instance or ebs.")
    ] = "system",
    hang: Annotated[
        bool, typer.Option("--hang", help="Freeze all processes of the instance as well.")
    ] = False,
) -> None:
    """Fail a status check of the instance on which a run is training, as of ten minutes ago."""
    if check not in CHECKS:
        problem = f"{check!r} is not one of {', '.join(CHECKS)}"
        raise InvalidRequestError((Problem("--check", problem),))
    client, attempt = find_training(invocation, run)
    instance_id = instance_of(attempt, rank)
    try:
        client.impair(instance_id, check=check, since_seconds=600, hangs=hang)
    except LocalCloudError as exc:
        raise RefusedError(str(exc)) from exc
    frozen = ", and all of its processes are frozen" if hang else ""
    invocation.output.result(
        {
            "run_id": run,
            "attempt": attempt.number,
            "instance_id": instance_id,
            "check": check,
            "hang": hang,
        },
        f"the {check} status check of {instance_id} (attempt {attempt.number} of {run}) "
        f"fails{frozen}",
    )
