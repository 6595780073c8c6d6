"""`runctl list`: the runs of a deployment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Annotated

import typer

from runctl.cli.display.view import list_page
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.outcome import RunStatus
from runctl.model.run import derive_status
from runctl.report.documents import run_summary

_SEARCHED = 1000


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
    ledger = invocation.cloud.ledger
    runs = ledger.list_runs(limit=_SEARCHED if status else limit)
    if status and RunStatus(status).is_final:
        runs = [run for run in runs if run.ended is not None and run.ended.value == status]
    elif status:
        runs = [run for run in runs if run.ended is None]
    if not status or RunStatus(status).is_final:
        runs = runs[:limit]
    with ThreadPoolExecutor(max_workers=8) as pool:
        attempts = list(pool.map(ledger.attempts, [run.run_id for run in runs]))
    found = [
        (run, tries)
        for run, tries in zip(runs, attempts, strict=True)
        if not status or derive_status(run, tries).value == status
    ][:limit]
    invocation.output.result(
        {"runs": [run_summary(run, tries) for run, tries in found]},
        list_page(found, now=datetime.now(timezone.utc), width=invocation.output.stdout.width)
        if found
        else f"no runs are {status}"
        if status
        else "no runs yet; start one with `runctl aws train SCRIPT`",
    )
