"""Files of a checkpoint that are on the machine already, and need not be fetched."""

import hashlib
import os
import shutil
from pathlib import Path

from runctl.checkpoint.folder_state import FolderState, scan_folder
from runctl.checkpoint.placing import NEW_FILE_FLAGS
from runctl.model.checkpoint import Entry
from runctl.model.errors import CheckpointError

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BLOCK_BYTES = 1024 * 1024


class LocalFiles:
    """The files in a folder that nobody writes to, by their paths; safe to share between threads.

    A file is what a checkpoint names if its bytes have the digests in the manifest: reading them is
    faster than fetching them, and neither sizes nor times prove anything.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._files: FolderState = scan_folder(folder)
        except (CheckpointError, OSError):  # then all of it is fetched
            self._files = {}

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
        if file_state is None or not is_alike:
            return False
        try:
            # No folder above it was a link when it was scanned, and it must still be that file.
            source = os.open(self._folder / entry.path, READ_FLAGS)
            try:
                info = os.fstat(source)
                if (info.st_dev, info.st_ino) != file_state.inode:
                    return False
                self._add_name(source, info, self._folder / entry.path, target)
            finally:
                os.close(source)
            if _has_content(entry, target):
                return True
        except OSError:
            pass
        _remove(target)
        return False

    def _add_name(self, source: int, info: os.stat_result, path: Path, target: str) -> None:
        """Link the file, or copy it where another name of it may belong to someone else.

        Times and mode of what is restored are set, and would change there, too.
        """
        if info.st_nlink == 1:
            os.link(path, target, follow_symlinks=False)
            linked = os.lstat(target)
            if (linked.st_dev, linked.st_ino) != (info.st_dev, info.st_ino):
                raise FileNotFoundError(str(path))
            return
        with (
            open(os.dup(source), "rb") as original,
            open(os.open(target, NEW_FILE_FLAGS, 0o600), "wb") as copy,
        ):
            shutil.copyfileobj(original, copy, BLOCK_BYTES)


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
