"""`runctl local interrupt`: reclaim the instance of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.find import RunName
from runctl.cli.commands.local.local_cloud import Rank, find_training, instance_of, translated
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem


def interrupt(
    invocation: Invocation,
    run: RunName,
    rank: Rank = 0,
    no_notice: Annotated[
        bool, typer.Option("--no-notice", help="Reclaim the instance without a notice.")
    ] = False,
    notice_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            max=3600,
            help="Seconds from the notice to the end of the instance (default: 120).",
        ),
    ] = None,
    reservation: Annotated[
        bool,
        typer.Option(
            "--reservation", help="End its capacity reservation: an event, but no notice."
        ),
    ] = False,
) -> None:
    """Reclaim the instance on which a run is training, as EC2 does."""
    if no_notice and reservation:
        problem = "mutually exclusive with --reservation, which always gives a notice"
        raise InvalidRequestError((Problem("--no-notice", problem),))
    if no_notice and notice_seconds is not None:
        problem = "mutually exclusive with --no-notice"
        raise InvalidRequestError((Problem("--notice-seconds", problem),))
    seconds = 120 if notice_seconds is None else notice_seconds
    client, attempt = find_training(invocation, run)
    instance_id = instance_of(attempt, rank)
    with translated():
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
