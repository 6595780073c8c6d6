"""Placement of a checkpoint's files, links and folders, without following any link.

Everything is created relative to a descriptor of its folder, and each folder is opened from the one
above it. So no link, whether from a manifest or already there, leads a file elsewhere, whatever
names the file system considers equal.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from runctl.beneath.folder import Folder
from runctl.fault_points import reach
from runctl.model.checkpoint_entry import Entry
from runctl.model.errors import DamagedCheckpointError

COPIED_BYTES = 1024 * 1024
# It must not exist yet, nor be a link to something that does.
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Errors caused by names in a manifest that the file system rejects; any other OSError says nothing
# about the manifest.
IMPOSSIBLE = frozenset(
    {
        errno.EEXIST,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
    }
)


def place(
    entries: Sequence[Entry], folder: Path, incoming: Path, content_name: Callable[[Entry], str]
) -> None:
    """Fill an empty folder according to the entries, with verified files from `incoming`.

    `content_name` names an entry's file there. Raises DamagedCheckpointError if the file system
    rejects such a tree, OSError for anything else.
    """
    # Depth first: a folder comes directly before its content.
    ordered = sorted(entries, key=lambda entry: entry.path.replace("/", "\0"))
    with Folder.opened(folder) as root, Folder.opened(incoming) as source:
        _Placing(root, source.descriptor, content_name).place(ordered)


class _Placing:
    """The steps of a placement, in order."""

    def __init__(self, root: Folder, incoming: int, content_name: Callable[[Entry], str]) -> None:
        self._root = root
        self._incoming = incoming
        self._content_name = content_name
        self._uses: Counter[str] = Counter()

    def place(self, entries: Sequence[Entry]) -> None:
        self._uses.update(self._content_name(entry) for entry in entries if entry.kind == "file")
        self._for_each(entries, self._place_one)
        self._for_each([entry for entry in entries if entry.kind == "hard"], self._link)
        # Children before parents: adding to a folder changes its time, and its mode may lock us
        # out.
        self._for_each(
            [entry for entry in reversed(entries) if entry.kind == "dir"], self._finish_folder
        )

    def _for_each(self, entries: Sequence[Entry], work: Callable[[Entry], object]) -> None:
        for entry in entries:
            try:
                work(entry)
            except (OSError, ValueError) as exc:
                if isinstance(exc, OSError) and exc.errno not in IMPOSSIBLE:
                    raise
                raise DamagedCheckpointError(
                    f"{entry.path!a} cannot be placed in the folder: {exc}"
                ) from exc

    def _place_one(self, entry: Entry) -> None:
        above, _, name = entry.path.rpartition("/")
        if entry.kind == "dir":
            self._root.at(entry.path, make=True)
            return
        at = self._root.at(above, make=True)
        if entry.kind == "link":
            os.symlink(entry.target, name, dir_fd=at)
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)
        elif entry.kind == "file":
            self._place_file(entry, name, at)
            reach("restore.first_file_placed")

    def _place_file(self, entry: Entry, name: str, at: int) -> None:
        content = self._content_name(entry)
        times = (entry.mtime_ns, entry.mtime_ns)
        self._uses[content] -= 1
        if self._uses[content]:  # another file with the same content still needs it
            target = os.open(name, NEW_FILE_FLAGS, 0o600, dir_fd=at)
            try:
                self._copy(content, target)
                os.fchmod(target, entry.mode)
                os.utime(target, ns=times)
            finally:
                os.close(target)
            return
        # It gets its name only when it is complete.
        os.chmod(content, entry.mode, dir_fd=self._incoming)
        os.utime(content, ns=times, dir_fd=self._incoming, follow_symlinks=False)
        os.rename(content, name, src_dir_fd=self._incoming, dst_dir_fd=at)

    def _copy(self, content: str, target: int) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        source = os.open(content, flags, dir_fd=self._incoming)
        try:
            while block := os.read(source, COPIED_BYTES):
                while block:  # a file system that fills up accepts only a part of it
                    block = block[os.write(target, block) :]
        finally:
            os.close(source)

    def _link(self, entry: Entry) -> None:
        """Give a file its other name; it is a file of the manifest that is in place."""
        above, _, name = entry.path.rpartition("/")
        at = self._root.at(above, make=True)
        with self._root.parent(entry.target) as (there, target):
            os.link(target, name, src_dir_fd=there, dst_dir_fd=at, follow_symlinks=False)

    def _finish_folder(self, entry: Entry) -> None:
        descriptor = self._root.at(entry.path)
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
