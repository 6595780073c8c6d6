"""`runctl compare`: the results of runs side by side, in the terminal and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from runctl.cli.commands.find import find_run
from runctl.cli.commands.status import read_document
from runctl.cli.display.comparison_page import comparison_page
from runctl.cli.display.plots import INSTALL, names_to_plot, terminal_plot, write_picture
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem, RequestError
from runctl.report.comparison import ComparedRun, Comparison, compare_runs, compared_run
from runctl.report.metric_history import read_histories

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runctl.cli.cloud import Cloud

MAX_RUNS = 50


def compare(
    invocation: Invocation,
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="The names of the runs.")],
    maximize: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A metric of which higher values are better; repeatable."
        ),
    ] = None,
    minimize: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A metric of which lower values are better; repeatable."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A metric to plot; repeatable (default: the first four)."
        ),
    ] = None,
    png: Annotated[
        str,
        typer.Option(metavar="FILE", help=f"Write the plots as a picture, too; {INSTALL}."),
    ] = "",
) -> None:
    """Compare the results of runs: metrics, steps and machine time, with plots of histories.

    The best value of a metric is marked if its name says which values are better, such as loss or
    accuracy, or if an option does.
    """
    _check(runs, maximize or [], minimize or [])
    cloud = invocation.cloud
    comparison = compare_runs(
        [_read(cloud, run_id) for run_id in dict.fromkeys(runs)],
        maximize=maximize or (),
        minimize=minimize or (),
    )
    _check_names(comparison, [*(maximize or ()), *(minimize or ()), *(metric or ())])
    output = invocation.output
    for run in comparison.runs:
        if not run.metrics:
            output.note(
                f"{run.run_id} has no metrics: its program wrote none to metrics.json in "
                "$RUNCTL_OUTPUT_DIR, nor to $RUNCTL_METRICS_FILE",
                style="yellow",
            )
    document = comparison.as_document()
    if png:
        document["png"] = png
        drawn = write_picture(comparison, Path(png), metric or ())
        output.note(f"{png} shows {', '.join(drawn)}")
    parts = comparison_page(comparison)
    if not output.as_json:
        parts += _plots(invocation, comparison, metric or [])
    output.result(document, *parts)


def _check(runs: list[str], maximize: list[str], minimize: list[str]) -> None:
    if len(dict.fromkeys(runs)) < 2:
        raise RequestError("RUN: name at least two runs to compare; `runctl list` shows them")
    if len(runs) > MAX_RUNS:
        raise RequestError(f"RUN: {len(runs)} runs exceed the limit of {MAX_RUNS}; name fewer")
    if both := sorted(set(maximize) & set(minimize)):
        raise InvalidRequestError(
            (Problem("--maximize", f"{both[0]} is also given to --minimize; choose one"),)
        )


def _check_names(comparison: Comparison, names: list[str]) -> None:
    """Refuse the name of a metric that no run has."""
    known = {*comparison.names, *(name for run in comparison.runs for name in run.histories)}
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise RequestError(f"no run has a metric {name!r}; known: {listed}")


def _read(cloud: Cloud, run_id: str) -> ComparedRun:
    run = find_run(cloud, run_id)
    return compared_run(run, read_document(cloud, run), read_histories(cloud.blobs, run))


def _plots(
    invocation: Invocation, comparison: Comparison, wanted: list[str]
) -> list[RenderableType]:
    stdout = invocation.output.stdout
    plots: list[RenderableType] = []
    for name in names_to_plot(comparison, wanted):
        plot = terminal_plot(
            comparison, name, width=stdout.width, colored=stdout.color_system is not None
        )
        if plot is None:
            invocation.output.note(f"to plot the histories: {INSTALL}", style="dim")
            return []
        plots += ["", Text.from_ansi(plot)]
    return plots
