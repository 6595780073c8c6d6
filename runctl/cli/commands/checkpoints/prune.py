"""`runctl checkpoints prune`: remove older checkpoints of a run."""

from __future__ import annotations

from collections.abc import Sized
from datetime import datetime, timezone
from typing import Annotated

import typer

from runctl.cli.commands.checkpoints.ended import refuse_while_it_lives
from runctl.cli.commands.checkpoints.pruning import carry_out, plan_pruning
from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation
from runctl.report.wording import format_size


def prune(
    invocation: Invocation,
    run: RunName,
    keep: Annotated[
        int, typer.Option("--keep", min=1, metavar="N", help="Number of checkpoints to keep.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove older checkpoints of a run that has ended, and parts that no checkpoint needs."""
    cloud = invocation.cloud
    held = find_run(cloud, run)
    refuse_while_it_lives(invocation, run, "prune")
    store = cloud.checkpoints(run)
    plan = plan_pruning(store, held, keep=keep, now=datetime.now(timezone.utc))
    if not dry_run:
        carry_out(store, plan)
    verb = "would remove" if dry_run else "removed"
    invocation.output.result(
        {
            "run_id": run,
            "dry_run": dry_run,
            "kept": list(plan.kept),
            "removed": list(plan.removed),
            "parts": len(plan.parts),
            "freed_bytes": plan.freed_bytes,
        },
        f"{verb} {_count(plan.removed, 'checkpoint')} and {_count(plan.parts, 'part')} "
        f"({format_size(plan.freed_bytes)}); {_count(plan.kept, 'checkpoint')} kept",
    )


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
