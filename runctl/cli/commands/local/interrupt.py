"""`runctl local interrupt`: reclaim the instance of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.find import RunName
from runctl.cli.commands.local.local_cloud import find_training, translated
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem


def interrupt(
    invocation: Invocation,
    run: RunName,
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
