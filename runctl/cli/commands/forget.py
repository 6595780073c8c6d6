"""`runctl forget`: remove everything that is stored of a run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation
from runctl.control.forget_run import ForgottenRun, forget_run
from runctl.model.errors import RequestError
from runctl.policy.image_retention import KEPT_UNUSED
from runctl.report.wording import format_count, format_size


def forget(
    invocation: Invocation,
    run: RunName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove everything that is stored of a run that has ended.

    That is its checkpoints, outputs, metrics, logs, packed project and record; it cannot be resumed
    or shown any more. Step Functions keeps the input and the history of its executions for 90 days.
    """
    cloud = invocation.cloud
    find_run(cloud, run)
    if not (yes or dry_run):
        planned = forget_run(cloud, run, is_dry_run=True)
        invocation.output.note("\n".join(_lines(planned)))
        _ask(run)
    done = forget_run(cloud, run, is_dry_run=dry_run)
    invocation.output.result(done.as_document(), *_lines(done))


def _ask(run: str) -> None:
    if not sys.stdin.isatty():
        raise RequestError(f"--yes: required without a terminal to confirm that {run} may go")
    if not typer.confirm(f"Remove all of it? {run} cannot be restored", err=True):
        raise typer.Abort


def _lines(done: ForgottenRun) -> list[str]:
    verb = "would remove" if done.is_dry_run else "removed"
    stored = f"{format_count(done.objects, 'object')} ({format_size(done.bytes_removed)})"
    others = (
        f"{format_count(done.log_streams, 'log stream')} and {format_count(done.items, 'record')}"
    )
    lines = [f"{verb} {stored}, {others} of {done.run_id}"]
    if done.kept_code:
        lines.append(f"other runs use {', '.join(done.kept_code)}, too: it stays")
    if done.image:
        lines.append(
            f"the image {done.image} has the project in it, and stays until no run has used it for "
            f"{KEPT_UNUSED.days} days"
        )
    lines += [f"{place} is not the run's own, and stays" for place in done.elsewhere]
    return lines
