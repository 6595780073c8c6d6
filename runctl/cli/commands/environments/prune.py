"""`runctl environments prune`: remove stored environments that no run needs."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from runctl.cli.invocation import Invocation
from runctl.control.prune_environments import prune_environments
from runctl.policy.environments import MARGIN
from runctl.report.wording import format_size


def prune(
    invocation: Invocation,
    older_than: Annotated[
        int | None,
        typer.Option(
            "--older-than",
            min=0,
            metavar="DAYS",
            help="Remove environments that were not used for this long (default: the deployment's "
            "keep_environment_days).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove stored environments that no run needs, and parts that no environment names.

    A deployment does this once a day. Environments of runs that have not ended stay.
    """
    cloud = invocation.cloud
    days = cloud.deployment.environment_days if older_than is None else older_than
    pruned = prune_environments(cloud, keep=timedelta(days=days), is_dry_run=dry_run)
    count = len(pruned.removed)
    noun = "environment" if pruned.environments == 1 else "environments"
    unused = f" that no run has used for {days} days" if days else ""
    removed = (
        f"{'would remove' if dry_run else 'removed'} {count} of {pruned.environments} {noun}"
        f"{unused}, and {format_size(pruned.bytes_removed)} of parts that nothing names"
    )
    later = (
        f"{format_size(pruned.bytes_removed_later)} of parts that nothing names are removed once "
        f"they are {MARGIN.days} days old: a run may be about to use them"
    )
    damaged = (
        f"{len(pruned.damaged)} objects of incomplete environments "
        f"{'would be' if dry_run else 'were'} removed; runs build those environments again"
    )
    lines = [removed]
    if pruned.bytes_removed_later:
        lines.append(later)
    if pruned.damaged:
        lines.append(damaged)
    invocation.output.result({**pruned.as_document(), "older_than_days": days}, *lines)
