"""The commands that look at runs: list, status, checkpoints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.find import RunName, find_run
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
    from runctl.cli.documents import run_summary
    from runctl.cli.view import list_page
    from runctl.model.run import derive_status

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
    from runctl.cli.documents import run_document
    from runctl.cli.view import status_page

    output = invocation.output
    now = datetime.now(timezone.utc)
    page = status_page(run, attempts, now=now, width=output.stdout.width)
    output.result(run_document(run, attempts), page)


def checkpoints(invocation: Invocation, run: RunName) -> None:
    """List a run's whole checkpoints, the newest first."""
    from rich.table import Table

    from runctl.cli.wording import say_instant, say_size
    from runctl.model.errors import DamagedCheckpointError

    cloud = invocation.cloud
    held = find_run(cloud, run)
    store = cloud.checkpoints(run)
    keys = store.manifest_keys()

    def read(key: str) -> dict[str, Any]:
        try:
            manifest = store.get_manifest(key)
        except DamagedCheckpointError as exc:
            return {"key": key, "damage": str(exc), "is_newest": key == held.newest}
        return {
            "key": key,
            "step": manifest.step,
            "attempt": manifest.attempt,
            "taken_at": manifest.taken_at,
            "size_bytes": manifest.size_bytes,
            "files": sum(entry.kind in {"file", "hard"} for entry in manifest.entries),
            "is_newest": key == held.newest,
        }

    with ThreadPoolExecutor(max_workers=8) as pool:
        found = list(pool.map(read, keys))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("step", "attempt", "taken", "size", "files", ""):
        table.add_column(heading, justify="left" if heading in {"taken", ""} else "right")
    for one in found:
        newest = "newest" if one["is_newest"] else ""
        if "damage" in one:
            table.add_row("?", "?", "?", "?", "?", f"{newest} {one['damage']}".strip())
            continue
        taken = say_instant(datetime.fromisoformat(one["taken_at"].replace("Z", "+00:00")))
        cells = [one["step"], one["attempt"], taken, say_size(one["size_bytes"]), one["files"]]
        table.add_row(*(str(cell) for cell in cells), newest)
    invocation.output.result(
        {"run_id": run, "checkpoints": found}, table if found else f"{run} has no checkpoint yet"
    )
