"""`runctl sweep plots`: pictures of a sweep's values, of what matters, and of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from runctl.cli.commands.sweep.find import SweepName, find_sweep
from runctl.cli.display.plots import INSTALL
from runctl.cli.invocation import Invocation
from runctl.model.errors import (
    InvalidRequestError,
    NotFoundError,
    Problem,
    RequestError,
    SetupError,
)
from runctl.plots.drawing import render_plots
from runctl.plots.facts import NothingToPlotError, plots_of
from runctl.report.sweep_document import read_sweep


def plots(
    invocation: Invocation,
    sweep: SweepName,
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="The folder for the pictures, whose files are replaced (default: SWEEP-plots).",
        ),
    ] = "",
) -> None:
    """Draw the trials of a sweep as PNG pictures: history, importance, parallel coordinates.

    The history has the value of each trial and the best so far. The importance of a hyperparameter
    is the share of the differences between completed trials that it explains alone. The
    pictures need the extra `plots`, which has matplotlib. When a sweep ends, the deployment stores
    the same pictures with its results.
    """
    cloud = invocation.cloud
    document = read_sweep(cloud, find_sweep(cloud, sweep), reads_runs=False)
    if not document.options.metric:
        raise RequestError(f"{sweep} has no metric to draw; start it with --metric")
    try:
        facts = plots_of(sweep, document.options, [entry.trial for entry in document.trials])
    except NothingToPlotError as exc:
        see = f"`runctl sweep status {sweep}`"
        raise NotFoundError(f"{sweep}: {exc}; see {see}") from exc
    try:
        pictures = render_plots(facts)
    except SetupError as exc:
        raise RequestError(f"{exc}; {INSTALL}") from exc
    paths = _write(Path(out or f"{sweep}-plots"), pictures)
    result = {**facts.as_document(), "files": [str(path) for path in paths]}
    invocation.output.result(result, *(str(path) for path in paths))


def _write(folder: Path, pictures: Mapping[str, bytes]) -> list[Path]:
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in pictures.items():
            path = folder / name
            path.write_bytes(content)
    except OSError as exc:
        problem = f"{path} cannot be written: {exc.strerror}; name another folder"
        raise InvalidRequestError((Problem("--out", problem),)) from exc
    return [folder / name for name in pictures]
