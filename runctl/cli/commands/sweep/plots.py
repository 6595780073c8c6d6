"""`runctl sweep plots`: pictures of a sweep's values, of what matters, and of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.sweep.find import SweepName, find_sweep
from runctl.cli.display.sweep_plots import render_plots
from runctl.cli.invocation import Invocation
from runctl.model.errors import (
    InvalidRequestError,
    NotFoundError,
    Problem,
    RefusedError,
    RequestError,
    UnexpectedAwsError,
)
from runctl.model.identity import sweep_results_key
from runctl.report.sweep_document import read_sweep
from runctl.report.sweep_plots import NothingToPlotError, plots_of

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud


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
    upload: Annotated[
        bool,
        typer.Option("--upload", help="Store the pictures with the results of the sweep, too."),
    ] = False,
) -> None:
    """Draw the trials of a sweep as PNG pictures: history, importance, parallel coordinates.

    The history has the value of each trial and the best so far. The importance of a hyperparameter
    is the share of the differences between completed trials that it explains alone. The
    pictures need the extra `plots`, which has matplotlib.
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
    pictures = render_plots(facts)
    paths = _write(Path(out or f"{sweep}-plots"), pictures)
    output = invocation.output
    if upload:
        # Of an upload that is refused, the files stay.
        output.note(f"the pictures are in {paths[0].parent}")
    stored = _upload(cloud, sweep, pictures) if upload else []
    result = {
        **facts.as_document(),
        "files": [str(path) for path in paths],
        "uploaded": stored,
    }
    output.result(result, *(str(path) for path in paths), *stored)


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


def _upload(cloud: Cloud, sweep: str, pictures: Mapping[str, bytes]) -> list[str]:
    keys = {sweep_results_key(sweep, f"plots/{name}"): name for name in pictures}
    for key, name in keys.items():
        try:
            cloud.blobs.put(key, pictures[name], content_type="image/png")
        except (RefusedError, UnexpectedAwsError) as exc:
            raise RefusedError(
                f"--upload: {cloud.objects.uri(key)} cannot be written, for which your "
                f"credentials need s3:PutObject: {exc}"
            ) from exc
    return [cloud.objects.uri(key) for key in keys]
