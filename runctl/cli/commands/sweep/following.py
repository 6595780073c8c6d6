"""The end of commands that start a sweep: follow it, and exit with the code of its status."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from runctl.cli.display.sweep_following import open_display
from runctl.cli.display.sweep_page import sweep_page
from runctl.cli.exit_codes import exit_code_for
from runctl.cli.invocation import Invocation
from runctl.model.errors import RefusedError
from runctl.report.sweep_document import read_sweep
from runctl.report.sweep_follower import SweepFollower

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.group import Group
    from runctl.report.sweep_document import SweepDocument


def follow_sweep(invocation: Invocation, cloud: Cloud, name: str, execution_arn: str) -> None:
    """Follow a sweep to its end, print its page, and exit with the code of its status."""
    output = invocation.output
    come_back = f"`runctl sweep status {name} --follow`"
    try:
        with open_display(output.stderr) as display:
            sweep = SweepFollower(cloud, name, execution_arn, display).follow()
    except (KeyboardInterrupt, RefusedError):
        # Credentials that expire end this command, not the sweep.
        output.note(f"\n{name} continues; follow it again with {come_back}")
        raise
    print_sweep(invocation, cloud, sweep.group)
    raise typer.Exit(exit_code_for(sweep.status, was_refused=False))


def print_sweep(
    invocation: Invocation, cloud: Cloud, group: Group, *, shows_all: bool = False
) -> None:
    """Print the page or document of a sweep."""
    output = invocation.output
    sweep = read_sweep(cloud, group)
    page = sweep_page(sweep, now=datetime.now(timezone.utc), shows_all=shows_all)
    output.result(sweep.as_document(), page, *_where(cloud, sweep))


def _where(cloud: Cloud, sweep: SweepDocument) -> list[Text]:
    if sweep.group.ended is None:
        return []
    from runctl.model.identity import sweep_results_key
    from runctl.plots.facts import problem_with_plots

    uri = cloud.objects.uri(sweep_results_key(sweep.group.group_id, ""))
    lines = [f"results: {uri}results.csv and results.json"]
    if not problem_with_plots(sweep.options, [entry.trial for entry in sweep.trials]):
        lines.append(f"plots: {uri}plots/")
    return [Text(line, style="dim") for line in lines]
