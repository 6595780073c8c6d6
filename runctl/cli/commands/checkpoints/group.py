"""`runctl checkpoints`: list, verify, pull, push and prune a run's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation, command
from runctl.model.errors import (
    DamagedCheckpointError,
    InvalidRequestError,
    NotFoundError,
    Problem,
    RequestError,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from runctl.model.checkpoint import Manifest
    from runctl.model.run import Attempt, Run

_READERS = 8
_WITH_A_VALUE = frozenset({"--profile", "--region"})


class RunFirst(TyperGroup):
    """Takes a word that is no command for a run's name, whose checkpoints are listed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` before the name of a run."""
        word = _first_word(args)
        if word is not None and word not in self.commands:
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _first_word(args: list[str]) -> str | None:
    words = iter(args)
    for word in words:
        if word in _WITH_A_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


app = typer.Typer(
    cls=RunFirst,
    no_args_is_help=True,
    help="A run's checkpoints. `runctl checkpoints RUN` lists them.",
)


@command(app, "list")
def list_checkpoints(
    invocation: Invocation,
    run: RunName,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every part and compare it with its name.")
    ] = False,
) -> None:
    """List a run's whole checkpoints, the newest first; the word `list` may be left out."""
    cloud = invocation.cloud
    held = find_run(cloud, run)
    store = cloud.checkpoints(run)

    def read(key: str) -> tuple[str, Manifest | DamagedCheckpointError]:
        try:
            return key, store.get_manifest(key)
        except DamagedCheckpointError as exc:
            return key, exc

    with ThreadPoolExecutor(_READERS) as pool:
        manifests = list(pool.map(read, store.manifest_keys()))
    damage: dict[str, str] = {}
    if verify:
        from runctl.cli.commands.checkpoints.verification import find_damage

        whole = {key: one for key, one in manifests if not isinstance(one, DamagedCheckpointError)}
        damage = find_damage(store, whole, output=invocation.output)
    attempts = cloud.ledger.attempts(run)
    found = [_described(key, one, held, attempts, damage=damage) for key, one in manifests]
    details = [
        f"{one['key'].rpartition('/')[2]} is damaged: {one['damage']}"
        for one in found
        if "damage" in one
    ]
    page: list[RenderableType] = (
        [_table(found, verified=verify), *details] if found else [f"{run} has no checkpoint yet"]
    )
    invocation.output.result(
        {"run_id": run, "verified": verify, "checkpoints": found},
        *page,
    )
    if any("damage" in one for one in found):
        raise typer.Exit(1)


def _described(
    key: str,
    manifest: Manifest | DamagedCheckpointError,
    run: Run,
    attempts: Sequence[Attempt],
    *,
    damage: dict[str, str],
) -> dict[str, Any]:
    marks = {
        "is_newest": key == run.newest,
        "is_proven": key == run.proven,
        "is_suspect": key in run.suspects,
    }
    if isinstance(manifest, DamagedCheckpointError):
        return {"key": key, "damage": str(manifest), **marks}
    document = {
        "key": key,
        "step": manifest.step,
        "save": manifest.save or None,
        "attempt": manifest.attempt,
        "taken_at": manifest.taken_at,
        "size_bytes": manifest.size_bytes,
        "files": sum(entry.kind in {"file", "hard"} for entry in manifest.entries),
        "given_to_attempts": [
            one.number for one in attempts if manifest.save and one.resume_save == manifest.save
        ],
        **marks,
    }
    if key in damage:
        document["damage"] = damage[key]
    return document


def _table(found: list[dict[str, Any]], *, verified: bool) -> Table:
    from rich.table import Table

    from runctl.report.wording import say_size

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("save", "step", "attempt", "taken", "size", "files", ""):
        table.add_column(heading, justify="left" if heading in {"taken", ""} else "right")
    for one in found:
        notes = [mark for mark in ("newest", "proven", "suspect") if one[f"is_{mark}"]]
        if given := one.get("given_to_attempts"):
            plural = "s" if len(given) > 1 else ""
            notes.append(f"given to attempt{plural} {', '.join(map(str, given))}")
        if "damage" in one:
            notes.append("damaged")
        elif verified:
            notes.append("whole")
        if "step" not in one:
            table.add_row(*"??????", ", ".join(notes))
            continue
        taken = _say_taken(one["taken_at"])
        size = say_size(one["size_bytes"])
        cells = [one["save"], one["step"], one["attempt"], taken, size, one["files"]]
        table.add_row(*("–" if cell is None else str(cell) for cell in cells), ", ".join(notes))
    return table


def _say_taken(text: str) -> str:
    from runctl.report.wording import say_instant

    try:
        return say_instant(datetime.fromisoformat(text.replace("Z", "+00:00")))
    except (ValueError, OverflowError):  # another program's idea of an instant
        return "?"


@command(app, "pull")
def pull(
    invocation: Invocation,
    run: RunName,
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="[STEP|save:N] DIR",
            help="The step, or the number of the save, if not the newest; where.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace what the folder holds already.")
    ] = False,
) -> None:
    """Fetch a checkpoint, verified, into a folder: as the trainer left it, or not at all."""
    from runctl.cli.commands.checkpoints.transfers import (
        fetch_checkpoint,
        find_checkpoint,
        first_offered,
    )
    from runctl.model.checkpoint import name_of
    from runctl.report.wording import say_size

    wanted, folder = _wanted_and_folder(where)
    cloud = invocation.cloud
    held = find_run(cloud, run)
    store = cloud.checkpoints(run)
    key = first_offered(store, held) if wanted is None else find_checkpoint(store, run, wanted)
    if key is None:
        raise NotFoundError(f"{run} has no checkpoint yet")
    manifest = fetch_checkpoint(store, key, folder, force=force, output=invocation.output)
    if wanted is None and key != held.newest:
        invocation.output.tell(
            "the newest checkpoint is suspect (a trainer that was given it failed), so the one "
            f"before it was fetched; `runctl checkpoints {run}` lists both"
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
        f"{name_of(manifest.step, manifest.save)} ({say_size(manifest.size_bytes)}) is in {folder}",
    )


def _wanted_and_folder(where: list[str]) -> tuple[str | None, Path]:
    if len(where) > 2:
        raise InvalidRequestError((Problem("DIR", f"too many words: {' '.join(where)}"),))
    folder = Path(where[-1]).expanduser()
    if len(where) == 1:
        return None, folder
    if not re.fullmatch(r"(save:)?[0-9]{1,12}", where[0]):
        problem = f"{where[0]!r} is not a step such as 150, or a save such as save:3"
        raise InvalidRequestError((Problem("STEP", problem),))
    return where[0], folder


@command(app, "push")
def push(
    invocation: Invocation,
    run: RunName,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What the trainer will find.")],
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, metavar="N", help="Its step; else from the files' names."),
    ] = None,
) -> None:
    """Make a folder the newest checkpoint of a run that has ended; then `runctl resume` it."""
    from runctl.cli.commands.checkpoints.transfers import store_checkpoint
    from runctl.model.checkpoint import name_of
    from runctl.report.wording import say_size

    cloud = invocation.cloud
    held = find_run(cloud, run)
    _refuse_while_it_lives(invocation, run, "push")
    key, manifest = store_checkpoint(
        cloud.checkpoints(run), cloud.ledger, held, folder, step=step, output=invocation.output
    )
    size = say_size(manifest.size_bytes)
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
        f"next: runctl{invocation.flag} resume {run}",
    )


@command(app, "prune")
def prune(
    invocation: Invocation,
    run: RunName,
    keep: Annotated[int, typer.Option("--keep", min=1, metavar="N", help="How many stay.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
) -> None:
    """Remove all but the newest checkpoints of a run that has ended, and parts nobody needs."""
    from runctl.cli.commands.checkpoints.pruning import carry_out, plan_pruning
    from runctl.report.wording import say_size

    cloud = invocation.cloud
    held = find_run(cloud, run)
    _refuse_while_it_lives(invocation, run, "prune")
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
        f"({say_size(plan.freed_bytes)}); {_count(plan.kept, 'checkpoint')} kept",
    )


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


# An agent that was told to stop may still be saving for this long after its last heartbeat.
_QUIET_SECONDS = 120


def _refuse_while_it_lives(invocation: Invocation, run: str, what: str) -> None:
    """Only the attempt that has the fence may move checkpoints; so there must be none."""
    ledger = invocation.cloud.ledger
    held = find_run(invocation.cloud, run)
    if held.ended is None:
        raise RequestError(
            f"{run} is not over; to {what} its checkpoints, `runctl{invocation.flag} stop {run}` "
            "or wait for its end"
        )
    now = datetime.now(timezone.utc)
    for attempt in ledger.attempts(run):
        beat = attempt.heartbeat_at
        saving = attempt.phase in {"drain", "upload"}
        if saving and beat is not None and (now - beat).total_seconds() < _QUIET_SECONDS:
            raise RequestError(
                f"attempt {attempt.number} of {run} is still saving; try again in two minutes"
            )
