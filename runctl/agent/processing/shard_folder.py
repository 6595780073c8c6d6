"""The folders of a shard on the instance, at the same paths in every try of it."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        shutil.rmtree(self.outputs)
        self.outputs.mkdir()

    def clear_checkpoint(self) -> None:
        """Remove what a try has saved."""
        shutil.rmtree(self.checkpoint)
        self.checkpoint.mkdir()

    def remove(self) -> None:
        """Remove everything, to free the disk."""
        self.remove_at(self.root)

    @staticmethod
    def remove_at(root: Path) -> None:
        """Remove what an earlier agent has left of a shard."""
        shutil.rmtree(root, ignore_errors=True)

    def has_checkpoint(self) -> bool:
        """Whether its script has saved anything."""
        with contextlib.suppress(OSError):
            return any(self.checkpoint.iterdir())
        return False

    def written(self) -> Iterator[tuple[str, Path]]:
        """Yield the files that its script has written, in a fixed order, each with its name.

        A link to a file counts as that file. Raises RequestError for a link that leads out of the
        shard's folders, for what is not a file, and for a name that runctl uses itself.
        """
        root = self.root.resolve()
        for path in sorted(self.outputs.rglob("*")):
            name = path.relative_to(self.outputs).as_posix()
            target = path.resolve()
            if not target.is_relative_to(root):
                raise RequestError(
                    f"{name!a} in RUNCTL_OUTPUT_DIR is a link to {str(target)!a}; write a copy"
                )
            if path.is_dir():
                if path.is_symlink():
                    raise RequestError(
                        f"{name!a} in RUNCTL_OUTPUT_DIR is a link to a folder; write a copy"
                    )
                continue
            if not path.is_file():
                raise RequestError(f"{name!a} in RUNCTL_OUTPUT_DIR is not a file; remove it")
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
            yield name, path
