"""`runctl sweep status`: the progress of a sweep and its trials."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.sweep.find import SweepName, find_sweep
from runctl.cli.commands.sweep.following import follow_sweep, print_sweep
from runctl.cli.invocation import Invocation


def status(
    invocation: Invocation,
    sweep: SweepName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print each trial that ends, until the end.")
    ] = False,
    shows_all: Annotated[
        bool, typer.Option("--all", help="List all trials, not only some of many.")
    ] = False,
) -> None:
    """Show the progress of a sweep, its trials, and the best of them."""
    cloud = invocation.cloud
    group = find_sweep(cloud, sweep)
    if follow:
        follow_sweep(invocation, cloud, sweep, group.execution_arn)
    print_sweep(invocation, cloud, group, shows_all=shows_all)
