"""The folders of a shard on the instance, at the same paths in every try of it."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance.archive import Limits, unpack
from runctl.beneath.changes import clear, remove
from runctl.beneath.folder import Folder, Found, OutsideError, walk
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import RequestError
from runctl.model.shard import RESERVED, Shard

# The name by which the input is staged below the folder for inputs.
STAGED = "files"


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """A shard whose files are on the instance, below `root`."""

    shard: Shard
    root: Path

    @property
    def number(self) -> int:
        """The shard's number."""
        return self.shard.number

    @property
    def staging(self) -> Path:
        """Where the files are staged."""
        return self.root / "input"

    @property
    def inputs(self) -> Path:
        """RUNCTL_INPUT_DIR."""
        return self.staging / STAGED

    @property
    def outputs(self) -> Path:
        """RUNCTL_OUTPUT_DIR."""
        return self.root / "output"

    @property
    def checkpoint(self) -> Path:
        """RUNCTL_CHECKPOINT_DIR."""
        return self.root / "checkpoint"

    @property
    def archive(self) -> Path:
        """The packed checkpoint folder, on its way."""
        return self.root / "checkpoint.tar.gz"

    @property
    def saved(self) -> Path:
        """RUNCTL_SAVED_FILE."""
        return self.root / "saved.jsonl"

    @property
    def checkpoint_request(self) -> Path:
        """RUNCTL_CHECKPOINT_REQUEST."""
        return self.root / "checkpoint-request"

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.staging, self.outputs, self.checkpoint):
            folder.mkdir(parents=True, exist_ok=True)

    def clear_outputs(self) -> None:
        """Remove what a try has written that failed."""
        clear(self.outputs)

    def clear_checkpoint(self) -> None:
        """Remove what a try has saved."""
        clear(self.checkpoint)

    def unpack_checkpoint(self, limits: Limits) -> None:
        """Put what an earlier try has saved in place of the checkpoint folder's content.

        It is unpacked where only the agent may write: scripts of other shards run.
        """
        incoming = self.root / "incoming"
        remove(incoming)
        incoming.mkdir(mode=0o700)
        try:
            unpack(self.archive, incoming, limits)
            clear(self.checkpoint)
            with Folder.opened(incoming) as source, Folder.opened(self.checkpoint) as target:
                for path in sorted(incoming.iterdir()):
                    os.rename(
                        path.name,
                        path.name,
                        src_dir_fd=source.descriptor,
                        dst_dir_fd=target.descriptor,
                    )
        finally:
            remove(incoming)

    def remove(self) -> None:
        """Remove everything, to free the disk."""
        self.remove_at(self.root)

    @staticmethod
    def remove_at(root: Path) -> None:
        """Remove what an earlier agent has left of a shard."""
        with contextlib.suppress(OSError):
            remove(root)

    def has_checkpoint(self) -> bool:
        """Whether its script has saved anything."""
        with contextlib.suppress(OSError):
            return any(self.checkpoint.iterdir())
        return False

    def written(self) -> Iterator[tuple[str, OpenedFile]]:
        """Yield the files that its script has written, in a fixed order, each with its name.

        A link to a file counts as that file. Raises RequestError for a link that leads out of the
        shard's folders, for what is not a file, and for a name that runctl uses itself.
        """
        with Folder.opened(self.root) as root, Folder.opened(self.outputs) as outputs:
            for found in walk(outputs):
                if found.is_folder:
                    continue
                _check_name(found.path)
                descriptor = _open(root, f"{self.outputs.name}/{found.path}", found)
                try:
                    yield found.path, OpenedFile(descriptor, found.path)
                finally:
                    os.close(descriptor)


def _open(root: Folder, path: str, found: Found) -> int:
    if not (found.is_file or found.is_link):
        raise RequestError(f"{found.path!a} in RUNCTL_OUTPUT_DIR is not a file; remove it")
    try:
        return root.open_inside(path)
    except OutsideError as exc:
        raise RequestError(
            f"{found.path!a} in RUNCTL_OUTPUT_DIR is a link to {found.target()!a}; write a copy"
        ) from exc
    except FileNotFoundError as exc:
        if found.is_file:  # it was removed or replaced just now
            raise
        what = "a link to a folder" if _is_folder(root, path) else "a link to nothing"
        raise RequestError(f"{found.path!a} in RUNCTL_OUTPUT_DIR is {what}; write a copy") from exc


def _is_folder(root: Folder, path: str) -> bool:
    try:
        root.at(root.without_links(path))
    except OSError:
        return False
    return True


def _check_name(name: str) -> None:
    if name in RESERVED:
        raise RequestError(
            f"{name} in RUNCTL_OUTPUT_DIR is a name that runctl uses; choose another"
        )
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise RequestError(
            f"the name {name!a} in RUNCTL_OUTPUT_DIR is not UTF-8; choose another"
        ) from exc
