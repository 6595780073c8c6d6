"""Checkpoints as plain objects below any S3 URI, which `aws s3 cp` can fetch."""

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from runctl.agent.ports import PlainObjects
from runctl.checkpoint.pinned_files import pin_name
from runctl.checkpoint.settling import ChangedError, FileState, Snapshot
from runctl.model.errors import RunctlError

KEEP_LAST = 3
MANIFEST_VERSION = 1

logger = logging.getLogger(__name__)


class PlainStore:
    """Stores each checkpoint as a folder of objects, and its manifest next to the folder last.

    A file that has not changed is copied inside S3. `newest.json` names the newest checkpoint.
    """

    def __init__(
        self, objects: PlainObjects, *, bucket: str, prefix: str, keep_last: int = KEEP_LAST
    ) -> None:
        self._objects = objects
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._keep_last = keep_last
        self._stored: dict[str, tuple[tuple[Any, ...], str]] = {}
        self._made: list[str] = []

    def probe(self) -> None:
        """Write and remove a small object. Raises RunctlError if it cannot be written."""
        key = f"{self._prefix}.runctl-monitor"
        self._objects.put(key, b"")
        try:
            self._objects.delete(key)
        except RunctlError as exc:
            logger.warning("old checkpoints cannot be removed: %s", exc)

    def save(
        self, snapshot: Snapshot, place: Path, *, step: int | None, save: int, now: datetime
    ) -> str:
        """Store a pinned snapshot; return its URI. Raises ChangedError if a file has changed."""
        number = f"save-{save}" if step is None else f"step-{step}"
        name = f"{now:%Y%m%dT%H%M%S%f}-{number}"
        stored: dict[str, tuple[tuple[Any, ...], str]] = {}
        entries = []
        for path, file_state in sorted(snapshot.view.items()):
            entries.append(
                {
                    "path": path,
                    "kind": file_state.kind,
                    "mode": file_state.mode,
                    "mtime_ns": file_state.mtime_ns,
                    "size_bytes": file_state.size,
                    "target": file_state.target,
                }
            )
            if file_state.kind == "file":
                key = f"{self._prefix}{name}/{path}"
                self._store(place / pin_name(file_state), key, path, file_state)
                if path not in snapshot.logs:
                    _check_unchanged(place / pin_name(file_state), path, file_state)
                stored[path] = (_identity(file_state), key)
        manifest = {
            "version": MANIFEST_VERSION, "checkpoint": name, "step": step,
            "taken_at": now.isoformat(), "entries": entries,
        }  # fmt: skip
        self._put_json(f"{name}.json", manifest)
        self._put_json("newest.json", {"checkpoint": name, "step": step})
        self._stored = stored
        self._made.append(name)
        self._remove_old()
        return f"s3://{self._bucket}/{self._prefix}{name}/"

    def _store(self, source: Path, key: str, path: str, file_state: FileState) -> None:
        identity, before = self._stored.get(path, ((), ""))
        if before and identity == _identity(file_state):
            self._objects.copy(before, key)
        else:
            try:
                self._objects.upload(key, source)
            except FileNotFoundError as exc:
                raise ChangedError(f"{path} was removed while it was read") from exc

    def _put_json(self, name: str, document: dict[str, Any]) -> None:
        self._objects.put(f"{self._prefix}{name}", json.dumps(document, indent=1).encode())

    def _remove_old(self) -> None:
        """Remove all but the last few checkpoints of this monitor, each with its manifest first."""
        while len(self._made) > self._keep_last:
            name = self._made.pop(0)
            try:
                files = self._objects.keys(f"{self._prefix}{name}/")
                for key in (f"{self._prefix}{name}.json", *files):
                    self._objects.delete(key)
            except RunctlError as exc:
                logger.warning("%s could not be removed: %s", name, exc)


def _identity(file_state: FileState) -> tuple[Any, ...]:
    return file_state.inode, file_state.size, file_state.mtime_ns


def _check_unchanged(pinned: Path, path: str, file_state: FileState) -> None:
    try:
        info = pinned.stat()
    except FileNotFoundError as exc:
        raise ChangedError(f"{path} was removed while it was read") from exc
    if (info.st_size, info.st_mtime_ns) != (file_state.size, file_state.mtime_ns):
        raise ChangedError(f"{path} was written to while it was read")
