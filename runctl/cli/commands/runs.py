"""The commands that look at runs: list and status."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.outcome import RunStatus

if TYPE_CHECKING:
    from runctl.model.run import Attempt, Run

_SEARCHED = 1000


def list_runs(
    invocation: Invocation,
    status: Annotated[str, typer.Option(metavar="STATUS", help="Only runs with this status.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many.")] = 20,
) -> None:
    """List runs, the newest first."""
    from runctl.cli.display.view import list_page
    from runctl.model.run import derive_status
    from runctl.report.documents import run_summary

    known = [one.value for one in RunStatus]
    if status and status not in known:
        raise InvalidRequestError(
            (Problem("--status", f"{status!r} is none of {', '.join(known)}"),)
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
        else "no such runs"
        if status
        else "no runs yet; start one with `runctl aws train SCRIPT`",
    )


def status(invocation: Invocation, run: RunName) -> None:
    """Show how a run stands, and each of its attempts."""
    cloud = invocation.cloud
    found = find_run(cloud, run)
    print_run(invocation, found, cloud.ledger.attempts(run))


def print_run(invocation: Invocation, run: Run, attempts: list[Attempt]) -> None:
    """Print a run as `status` does."""
    from runctl.cli.display.view import status_page
    from runctl.report.documents import run_document

    output = invocation.output
    now = datetime.now(timezone.utc)
    versions = invocation.cloud.versions(run.run_id)
    page = status_page(run, attempts, versions, now=now, width=output.stdout.width)
    output.result(run_document(run, attempts, versions), page)
