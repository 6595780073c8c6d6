"""`runctl list`: the runs of a deployment."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

import typer

from runctl.cli.display.list_page import list_page
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.outcome import RunStatus
from runctl.report.run_list import read_run_list


def list_runs(
    invocation: Invocation,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="List only runs with this status.")
    ] = "",
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="Maximum number of runs.")
    ] = 20,
) -> None:
    """List runs, the newest first."""
    known = [member.value for member in RunStatus]
    if status and status not in known:
        raise InvalidRequestError(
            (Problem("--status", f"{status!r} is not one of {', '.join(known)}"),)
        )
    entries = read_run_list(
        invocation.cloud.ledger, limit=limit, status=RunStatus(status) if status else None
    )
    page = list_page(entries, now=datetime.now(timezone.utc), width=invocation.output.stdout.width)
    none = (
        f"no runs are {status}"
        if status
        else "no runs yet; start one with `runctl aws train SCRIPT`"
    )
    document = {"runs": [entry.as_document() for entry in entries]}
    invocation.output.result(document, page if entries else none)
