"""Transfers of checkpoints from and to this machine."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.fast_s3.http1 import Buffer, Write
from runctl.checkpoint.candidates import PREVIOUS, Trust, candidates, previous_of
from runctl.checkpoint.pinning import pin
from runctl.checkpoint.settling import ChangedError, FolderState, Snapshot, scan_folder
from runctl.checkpoint.stated_steps import StepJudge
from runctl.checkpoint.upload import Uploader
from runctl.model.checkpoint import Manifest, name_of
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import (
    DamagedCheckpointError,
    FencedError,
    InvalidRequestError,
    NotFoundError,
    Problem,
    RequestError,
)
from runctl.platforms import require_posix
from runctl.report.wording import format_size

if TYPE_CHECKING:
    from runctl.aws.ledger import DynamoLedger
    from runctl.cli.display.output import Output
    from runctl.model.run import Run


class _Watched:
    """A store that reports how many bytes of parts have been transferred."""

    def __init__(self, store: CheckpointStore, advance: Callable[[int], None]) -> None:
        self._store = store
        self._advance = advance

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def get_part(self, part: Part, write: Write) -> None:
        self._store.get_part(part, write)
        self._advance(part.size_bytes)

    def put_part(self, part: Part, content: Iterable[Buffer]) -> None:
        self._store.put_part(part, content)
        self._advance(part.size_bytes)


def fetch_checkpoint(
    store: CheckpointStore, key: str, folder: Path, *, force: bool, output: Output
) -> Manifest:
    """Make `folder` equal to the checkpoint, by one rename at the end.

    Raises DamagedCheckpointError if this checkpoint is damaged: an earlier one is named, but not
    fetched instead. The previous contents of `folder` remain until the rename.
    """
    require_posix("checkpoints pull")
    from runctl.checkpoint.restore import Restorer

    _check_target(folder, force=force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # On the folder's file system, so that the last step is a rename and not a copy.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        manifest = store.get_manifest(key)
        _check_space(folder.parent, manifest.size_bytes)
        total = sum(part.size_bytes for part in manifest.parts.values())
        with output.progress(f"fetching {folder.name}", total=total) as advance:
            watched = _Watched(store, advance)
            restorer = Restorer(watched, Path(scratch) / "incoming")  # type: ignore[arg-type]
            fetched = restorer.fetch(key)
        if fetched.key != key:
            raise DamagedCheckpointError(
                f"{key} is damaged; the newest complete checkpoint before it is that of "
                f"{name_of(fetched.manifest.step, fetched.manifest.save)}; name it to fetch it"
            )
        restorer.put_in_place(fetched.manifest, Path(scratch) / "whole")
        if folder.exists():
            folder.replace(Path(scratch) / "replaced")
        (Path(scratch) / "whole").replace(folder)
    return fetched.manifest


def first_offered(store: CheckpointStore, run: Run) -> str | None:
    """Return the key of the checkpoint from which a trainer would resume, or None."""
    if run.newest is None:
        return None
    return next(candidates(store, run.newest, Trust.of(run)))


def _check_space(folder: Path, size_bytes: int) -> None:
    """Refuse a checkpoint that does not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise RequestError(
            f"DIR: the checkpoint needs {format_size(size_bytes)}, but {folder} has "
            f"{format_size(free)} free; name a folder on another disk"
        )


def find_checkpoint(store: CheckpointStore, run: str, wanted: str) -> str:
    """Return the key of the newest save of a step, such as `150`, or of a save, `save:3`."""
    by_save = wanted.startswith("save:")
    number = int(wanted.removeprefix("save:"))
    known: set[int] = set()
    unnumbered: set[int] = set()
    for key in store.manifest_keys():
        try:
            manifest = store.get_manifest(key)
        except DamagedCheckpointError:
            continue
        found = (manifest.save or None) if by_save else manifest.step
        if found == number:
            return key
        if found is not None:
            known.add(found)
        elif manifest.save:
            unnumbered.add(manifest.save)
    what = f"save {number}" if by_save else f"checkpoint of step {number}"
    listed = ", ".join(map(str, sorted(known))) or "none"
    if unnumbered:
        saves = ", ".join(f"save:{save}" for save in sorted(unnumbered))
        listed += f", and saves without a known step: {saves}"
    raise NotFoundError(f"{run} has no {what}; it has {listed}")


def _check_target(folder: Path, *, force: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InvalidRequestError((Problem("DIR", f"{folder} is not a folder; name another"),))
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise InvalidRequestError(
            (Problem("DIR", f"{folder} is not empty; name another, or replace it with --force"),)
        )


def store_checkpoint(
    store: CheckpointStore,
    ledger: DynamoLedger,
    run: Run,
    folder: Path,
    *,
    step: int | None,
    output: Output,
) -> tuple[str, Manifest]:
    """Store a folder as the run's newest checkpoint; return its key and manifest.

    The commit uses the fence of the run's last attempt: if another attempt starts meanwhile, the
    commit is refused with a RequestError. Interrupted at any moment, the run keeps its newest
    checkpoint.
    """
    require_posix("checkpoints push")
    view = _look_at(folder)
    if step is None:
        read = partial(_read_below, folder)
        step = StepJudge().judge(view, view, held={}, current=None, read=read).step
    try:
        entries = _upload(store, run, folder, view, output)
    except ChangedError as exc:
        raise RequestError(
            f"DIR: {folder} changes while it is read: {exc}; wait until it no longer does"
        ) from exc
    now = datetime.now(timezone.utc)
    manifest = Manifest(
        run_id=run.run_id,
        step=step,
        save=run.save + 1,
        attempt=run.fence,
        taken_at=now.isoformat(),
        entries=entries,
        metadata={PREVIOUS: _previous(store, run)},
    )
    key = store.put_manifest(manifest)
    try:
        ledger.commit_checkpoint(
            run.run_id,
            run.fence,
            step=step,
            save=manifest.save,
            manifest=key,
            progressed=False,
            now=now,
            size_bytes=manifest.size_bytes,
        )
    except FencedError as exc:
        raise RequestError(f"{run.run_id} has been resumed; its checkpoint is unchanged") from exc
    return key, manifest


def _upload(
    store: CheckpointStore, run: Run, folder: Path, view: FolderState, output: Output
) -> tuple[Entry, ...]:
    """Upload the parts of a folder that the store lacks, and return its entries."""
    size = sum(seen.size for seen in view.values())
    with (
        tempfile.TemporaryDirectory(prefix="runctl-push-") as scratch,
        output.progress(f"storing {folder.name}", total=size) as advance,
    ):
        uploader = Uploader(_Watched(store, advance))  # type: ignore[arg-type]
        if run.newest:
            with contextlib.suppress(DamagedCheckpointError):
                uploader.reuse_bundles_of(store.get_manifest(run.newest))
        place = Path(scratch) / "pins"
        held = pin(folder, view, place)
        snapshot = Snapshot(held, tuple(held))
        return uploader.upload(snapshot, place, superseded=threading.Event()).entries


def _previous(store: CheckpointStore, run: Run) -> list[str]:
    """Return the keys of the run's newest checkpoint and of its predecessors."""
    if run.newest is None:
        return []
    try:
        return [run.newest, *previous_of(store, run.newest)]
    except DamagedCheckpointError:
        return [run.newest]


def _read_below(folder: Path, path: str, offset: int, size: int) -> bytes:
    try:
        with (folder / path).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    except OSError:
        return b""


def _look_at(folder: Path) -> FolderState:
    if not folder.is_dir():
        raise InvalidRequestError((Problem("DIR", f"{folder} is not a folder"),))
    view = scan_folder(folder)
    if not any(seen.kind == "file" for seen in view.values()):
        raise InvalidRequestError((Problem("DIR", f"{folder} holds no file"),))
    return view
