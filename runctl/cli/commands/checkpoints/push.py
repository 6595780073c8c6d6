"""`runctl checkpoints push`: store a local folder as the newest checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runctl.cli.commands.checkpoints.ended import refuse_while_it_lives
from runctl.cli.commands.checkpoints.transfers import store_checkpoint
from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation
from runctl.model.checkpoint import name_of
from runctl.report.wording import format_size


def push(
    invocation: Invocation,
    run: RunName,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder that the trainer will find.")
    ],
    step: Annotated[
        int | None,
        typer.Option(
            "--step", min=0, metavar="N", help="The checkpoint's step (default: from file names)."
        ),
    ] = None,
) -> None:
    """Store a folder as the newest checkpoint of a run that has ended."""
    cloud = invocation.cloud
    held = find_run(cloud, run)
    refuse_while_it_lives(invocation, run, "push")
    key, manifest = store_checkpoint(
        cloud.checkpoints(run), cloud.ledger, held, folder, step=step, output=invocation.output
    )
    size = format_size(manifest.size_bytes)
    invocation.output.result(
        {
            "run_id": run,
            "key": key,
            "step": manifest.step,
            "save": manifest.save,
            "size_bytes": manifest.size_bytes,
            "replaced_step": held.step,
        },
        f"{name_of(manifest.step, manifest.save)} ({size}) is the newest checkpoint of {run}; "
        f"next: `runctl resume {run}`",
    )
