"""Files of a checkpoint that are on the machine already, and need not be fetched."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from runctl.beneath.folder import Folder
from runctl.beneath.paths import open_folder
from runctl.checkpoint.folder_state import FolderState, scan_folder
from runctl.checkpoint.pinned_files import copy_file
from runctl.model.checkpoint_entry import Entry
from runctl.model.errors import CheckpointError

BLOCK_BYTES = 1024 * 1024


class LocalFiles:
    """The files in a folder that nobody writes to, by their paths; safe to share between threads.

    A file is what a checkpoint names if its bytes have the digests in the manifest: reading them is
    faster than fetching them, and neither sizes nor times prove anything.
    """

    def __init__(self, folder: Folder | None, files: FolderState) -> None:
        self._folder = folder
        self._files = files

    @classmethod
    @contextlib.contextmanager
    def of(cls, folder: Path) -> Iterator["LocalFiles"]:
        """Scan a folder; if that fails, it has no files, and all of it is fetched."""
        try:
            files = scan_folder(folder)
            opened = Folder(open_folder(folder), str(folder))
        except (CheckpointError, OSError):
            yield cls(None, {})
            return
        try:
            yield cls(opened, files)
        finally:
            opened.close()

    def take(self, entry: Entry, target: str) -> bool:
        """Give a file of the folder the further name `target` if it has the content of an entry.

        Returns whether it has. `target` must not exist, and be on the same file system.
        """
        file_state = self._files.get(entry.path)
        is_alike = (
            file_state is not None
            and file_state.kind == "file"
            and 0 < file_state.size == entry.size_bytes
        )
        if self._folder is None or file_state is None or not is_alike:
            return False
        try:
            with self._folder.parent(entry.path) as (at, name):
                source = self._folder.open_at(name, at)
                try:
                    info = os.fstat(source)
                    if (info.st_dev, info.st_ino) != file_state.inode:
                        return False
                    _add_name(source, info, name, at, target)
                finally:
                    os.close(source)
            if _has_content(entry, target):
                return True
        except OSError:
            pass
        _remove(target)
        return False


def _add_name(source: int, info: os.stat_result, name: str, at: int, target: str) -> None:
    """Link the file, or copy it where another name of it may belong to someone else.

    Times and mode of what is restored are set, and would change there, too.
    """
    if info.st_nlink == 1:
        os.link(name, target, src_dir_fd=at, follow_symlinks=False)
        linked = os.lstat(target)
        if (linked.st_dev, linked.st_ino) != (info.st_dev, info.st_ino):
            raise FileNotFoundError(name)
        return
    copy_file(source, target, info.st_size)


def _has_content(entry: Entry, path: str) -> bool:
    expected = (
        [(part.sha256, part.size_bytes) for part in entry.parts]
        if entry.offset is None
        else [(entry.sha256, entry.size_bytes)]
    )
    with open(path, "rb", buffering=0) as stream:
        for sha256, size in expected:
            digest, left = hashlib.sha256(), size
            while left and (block := stream.read(min(left, BLOCK_BYTES))):
                digest.update(block)
                left -= len(block)
            if left or digest.hexdigest() != sha256:
                return False
        return not stream.read(1)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
