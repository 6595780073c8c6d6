"""Holding on to the files of a snapshot while they are uploaded."""

import os
import shutil
from pathlib import Path

from runctl.agent.snapshot import ChangedError, Seen, View

LARGEST_COPY_BYTES = 512 * 1024 * 1024


def pin(folder: Path, view: View, pinned: Path, *, hot: frozenset[str] = frozenset()) -> View:
    """Hold on to the files of `view` by hard links below `pinned`, one an inode.

    So a trainer may rename and remove what it likes while we upload. What is `hot` is copied, which
    is faster than any upload: a hard link does not help against writing in place. Returns the view
    without what has vanished; raises ChangedError when a file is no longer as it was seen.
    """
    shutil.rmtree(pinned, ignore_errors=True)
    pinned.mkdir(parents=True)
    try:
        return _hold(folder, view, pinned, hot)
    except OSError:
        # Half a copy on a full disk would take the space that the trainer needs for its own save.
        shutil.rmtree(pinned, ignore_errors=True)
        raise


def read_pinned(view: View, pinned: Path, path: str, offset: int, size: int) -> bytes:
    """Return some bytes of a file that is held on to, none when it cannot be read."""
    try:
        with (pinned / pin_name(view[path])).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    except OSError:
        return b""


def tell_where_links_fail(folder: Path, pins: Path) -> str:
    """Say what it means that the checkpoint folder is on another file system, or nothing."""
    pins.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_dev == pins.stat().st_dev:
        return ""
    return (
        f"{folder} is on another file system than {pins}, so hard links are not possible: files "
        "are read where they lie, and one that changes meanwhile is taken with the next snapshot"
    )


def _hold(folder: Path, view: View, pinned: Path, hot: frozenset[str]) -> View:
    held: View = {}
    names: set[str] = set()
    for path, seen in view.items():
        if seen.kind == "file":
            name = pin_name(seen)
            if path in hot and seen.size <= LARGEST_COPY_BYTES:
                _copy(folder / path, pinned / name, seen)
            elif name not in names and not _link(folder, path, f"{pinned}/{name}", seen):
                continue
            names.add(name)
        held[path] = seen
    return held


def _link(folder: Path, path: str, target: str, seen: Seen) -> bool:
    """Hold on to a file; whether it is still there."""
    source = f"{folder}/{path}"
    try:
        os.link(source, target, follow_symlinks=False)
        info = os.stat(target)
    except FileNotFoundError:
        return False
    except OSError:
        # Another file system, or one without hard links: we can only hope it stays.
        os.symlink(os.path.abspath(source), target)
        try:
            info = os.stat(source)
        except FileNotFoundError:
            os.unlink(target)
            return False
    if (info.st_dev, info.st_ino) != seen.inode:
        os.unlink(target)
        raise ChangedError(f"{path} was replaced while it was looked at")
    return True


def _copy(path: Path, target: Path, seen: Seen) -> None:
    try:
        shutil.copyfile(path, target)
        info = path.stat()
    except FileNotFoundError as exc:
        raise ChangedError(f"{path.name} was removed while it was copied") from exc
    if (info.st_size, info.st_mtime_ns, (info.st_dev, info.st_ino)) != (
        seen.size,
        seen.mtime_ns,
        seen.inode,
    ):
        raise ChangedError(f"{path.name} was written to while it was copied")
    os.utime(target, ns=(seen.mtime_ns, seen.mtime_ns))


def pin_name(seen: Seen) -> str:
    """Return the name by which a pinned file is held."""
    return f"{seen.inode[0]:x}-{seen.inode[1]:x}"
