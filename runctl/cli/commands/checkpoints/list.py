"""`runctl checkpoints list`: a run's complete checkpoints, and their verification."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from runctl.cli.commands.checkpoints.verification import find_damage
from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation
from runctl.model.errors import DamagedCheckpointError
from runctl.report.wording import format_instant, format_size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runctl.model.checkpoint import Manifest
    from runctl.model.run import Attempt, Run


_LIST_THREADS = 8


def list_checkpoints(
    invocation: Invocation,
    run: RunName,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every part and verify its checksum.")
    ] = False,
) -> None:
    """List a run's complete checkpoints, newest first; the word `list` is optional.

    Marks say which a trainer has continued from (proven), which a trainer died from (suspect), and
    which attempts were given one.
    """
    cloud = invocation.cloud
    held = find_run(cloud, run)
    store = cloud.checkpoints(run)

    def read(key: str) -> tuple[str, Manifest | DamagedCheckpointError]:
        try:
            return key, store.get_manifest(key)
        except DamagedCheckpointError as exc:
            return key, exc

    with ThreadPoolExecutor(_LIST_THREADS) as pool:
        manifests = list(pool.map(read, store.manifest_keys()))
    damage: dict[str, str] = {}
    if verify:
        readable = {
            key: manifest
            for key, manifest in manifests
            if not isinstance(manifest, DamagedCheckpointError)
        }
        damage = find_damage(store, readable, output=invocation.output)
    attempts = cloud.ledger.attempts(run)
    found = [
        _described(key, manifest, held, attempts, damage=damage) for key, manifest in manifests
    ]
    damaged = [document for document in found if "damage" in document]
    details = [
        f"{document['key'].rpartition('/')[2]} is damaged: {document['damage']}"
        for document in damaged
    ]
    page: list[RenderableType] = (
        [_table(found, verified=verify), *details] if found else [f"{run} has no checkpoint yet"]
    )
    invocation.output.result(
        {"run_id": run, "verified": verify, "checkpoints": found},
        *page,
    )
    if damaged:
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
            attempt.number
            for attempt in attempts
            if manifest.save and attempt.resume_save == manifest.save
        ],
        **marks,
    }
    if key in damage:
        document["damage"] = damage[key]
    return document


def _table(found: list[dict[str, Any]], *, verified: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("save", "step", "attempt", "taken", "size", "files", ""):
        table.add_column(heading, justify="left" if heading in {"taken", ""} else "right")
    for checkpoint in found:
        notes = [mark for mark in ("newest", "proven", "suspect") if checkpoint[f"is_{mark}"]]
        if given := checkpoint.get("given_to_attempts"):
            plural = "s" if len(given) > 1 else ""
            notes.append(f"given to attempt{plural} {', '.join(map(str, given))}")
        if "damage" in checkpoint:
            notes.append("damaged")
        elif verified:
            notes.append("whole")
        if "step" not in checkpoint:
            table.add_row(*"??????", ", ".join(notes))
            continue
        taken = _say_taken(checkpoint["taken_at"])
        size = format_size(checkpoint["size_bytes"])
        cells = [
            checkpoint["save"],
            checkpoint["step"],
            checkpoint["attempt"],
            taken,
            size,
            checkpoint["files"],
        ]
        table.add_row(*("–" if cell is None else str(cell) for cell in cells), ", ".join(notes))
    return table


def _say_taken(text: str) -> str:
    try:
        return format_instant(datetime.fromisoformat(text.replace("Z", "+00:00")))
    except (ValueError, OverflowError):  # written by another program
        return "?"
