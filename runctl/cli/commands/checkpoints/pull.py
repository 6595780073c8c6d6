"""`runctl checkpoints pull`: fetch a checkpoint into a local folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from runctl.cli.commands.checkpoints.transfers import (
    fetch_checkpoint,
    find_checkpoint,
    first_offered,
)
from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation
from runctl.model.checkpoint import name_of
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem
from runctl.report.wording import format_size


def pull(
    invocation: Invocation,
    run: RunName,
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="[STEP|save:N] DIR",
            help="A step or the number of a save (default: the newest), and the target folder.",
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the folder's contents.")] = False,
) -> None:
    """Fetch a checkpoint into a folder, verified: completely or not at all."""
    wanted, folder = _wanted_and_folder(where)
    cloud = invocation.cloud
    held = find_run(cloud, run)
    store = cloud.checkpoints(run)
    key = first_offered(store, held) if wanted is None else find_checkpoint(store, run, wanted)
    if key is None:
        raise NotFoundError(f"{run} has no checkpoint yet")
    manifest = fetch_checkpoint(store, key, folder, force=force, output=invocation.output)
    if wanted is None and key != held.newest:
        invocation.output.note(
            "the newest checkpoint is suspect (a trainer that resumed from it failed), so an "
            f"earlier one was fetched; `runctl checkpoints {run}` lists all"
        )
    invocation.output.result(
        {
            "run_id": run,
            "key": key,
            "step": manifest.step,
            "save": manifest.save or None,
            "size_bytes": manifest.size_bytes,
            "folder": str(folder),
        },
        f"{name_of(manifest.step, manifest.save)} ({format_size(manifest.size_bytes)}) is in "
        f"{folder}",
    )


def _wanted_and_folder(where: list[str]) -> tuple[str | None, Path]:
    if len(where) > 2:
        raise InvalidRequestError((Problem("DIR", f"too many arguments: {' '.join(where)}"),))
    folder = Path(where[-1]).expanduser()
    if len(where) == 1:
        return None, folder
    if not re.fullmatch(r"(save:)?[0-9]{1,12}", where[0]):
        problem = f"{where[0]!r} is neither a step, such as 150, nor a save, such as save:3"
        raise InvalidRequestError((Problem("STEP", problem),))
    return where[0], folder
