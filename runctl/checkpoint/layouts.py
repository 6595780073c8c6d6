"""Layouts of well-known libraries, which show whether a folder holds a complete save. Pure.

In each layout something is written last, or a list names what belongs to a save.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from runctl.checkpoint.folder_state import FileState
from runctl.checkpoint.save_groups import place_of
from runctl.checkpoint.torch_records import METADATA, RECORD

SHARD = re.compile(r"^(?P<before>.*?)-?(?P<number>\d+)-of-(?P<total>\d+)(?P<after>.*)$")
DATA_OF_TENSORFLOW = re.compile(r"^(?P<name>.+)\.data-\d+-of-\d+$")
NAMED_IN_INDEX = re.compile(r'"([^"/\\]{1,200}\.(?:safetensors|bin|msgpack|h5|pt))"')
CHECKPOINT_OF_A_TRAINER = re.compile(r"^checkpoint-\d+$")
ORBAX_TEMPORARY = ".orbax-checkpoint-tmp"
# Files that name the newest save, written once it is complete: DeepSpeed, Megatron, TensorFlow,
# Detectron2.
TRACKERS = ("latest", "latest_checkpointed_iteration.txt", "checkpoint", "last_checkpoint")
DIGITS = re.compile(r"\d{1,12}")
FILE_TYPE = re.compile(r"\.[a-z]{1,5}\"?\s*$")

Text = Callable[[str], str]
Records = Callable[[str], frozenset[str]]


class Scope(Enum):
    """How much of a checkpoint a folder holds."""

    WHOLE = "whole"
    FIRST_NODE = "first"  # what the node of rank 0 has, to which the others' files are added
    OTHER_NODE = "other"  # what another node has


@dataclass(frozen=True)
class Flaw:
    """Why the save that `path` belongs to is incomplete.

    `about` identifies the flaw in the next scan, or in the next save of a series; `seen_in` is then
    the highest number of a save without the flaw. `is_certain` means that waiting does not help:
    the library cannot read such a save. With `alone`, only the path and what is below it are
    affected.
    """

    path: str
    reason: str
    about: str
    is_certain: bool = False
    alone: bool = False
    in_series: bool = False
    seen_in: int = -1


def flaws_of(
    folder: str,
    files: Mapping[str, FileState],
    text: Text,
    records: Records,
    *,
    scope: Scope = Scope.WHOLE,
) -> Iterator[Flaw]:
    """Yield what is missing in a folder according to the layouts of its files.

    `files` are those directly in it, by name; `text` returns the content of a small file, and
    `records` what a `.metadata` of torch.distributed.checkpoint names. On one node of several, what
    the others may have is not missing.
    """
    if scope is Scope.OTHER_NODE:
        return
    if scope is Scope.WHOLE:
        yield from flaws_between(folder, files, text, records)
    yield from _torch_distributed(folder, files)
    yield from _tensorflow(folder, files)
    is_of_a_trainer = CHECKPOINT_OF_A_TRAINER.match(folder.rpartition("/")[2])
    if is_of_a_trainer and "training_args.bin" in files and "trainer_state.json" not in files:
        about = f"{folder}/trainer_state.json"
        yield Flaw(
            folder, f"{about}, which the Hugging Face Trainer writes last, is missing", about
        )


def flaws_between(
    folder: str, files: Mapping[str, FileState], text: Text, records: Records
) -> Iterator[Flaw]:
    """Yield which files are missing that others name; several nodes may have written them."""
    yield from _shards(folder, files)
    yield from _indexes(folder, files, text)
    yield from _missing_records(folder, files, records)


def _shards(folder: str, files: Mapping[str, FileState]) -> Iterator[Flaw]:
    found: dict[tuple[str, str, str], set[int]] = {}
    for name in files:
        if match := SHARD.match(name):
            key = (match["before"], match["total"], match["after"])
            found.setdefault(key, set()).add(int(match["number"]))
    for (before, total, after), numbers in found.items():
        if len(numbers) < int(total):
            path = _join(folder, f"{before}-*-of-{total}{after}")
            reason = f"{path}: only {len(numbers)} of {int(total)} shards exist"
            yield Flaw(_a_path(folder, files, before, total), reason, about=path)


def _a_path(folder: str, files: Mapping[str, FileState], before: str, total: str) -> str:
    names = (name for name in files if name.startswith(before) and f"-of-{total}" in name)
    return _join(folder, min(names))


def _indexes(folder: str, files: Mapping[str, FileState], text: Text) -> Iterator[Flaw]:
    for name in files:
        if not name.endswith(".index.json"):
            continue
        path = _join(folder, name)
        missing = sorted(set(NAMED_IN_INDEX.findall(text(path))) - files.keys())
        if missing:
            yield Flaw(path, f"{missing[0]}, which {path} names, is missing", path, is_certain=True)


def _missing_records(
    folder: str, files: Mapping[str, FileState], records: Records
) -> Iterator[Flaw]:
    for name in files:
        if METADATA.match(name):
            path = _join(folder, name)
            missing = sorted(records(path) - files.keys())
            if missing:
                about = _join(folder, missing[0])
                reason = f"{about}, which {path} names, is missing"
                yield Flaw(path, reason, about, is_certain=True)


def _torch_distributed(folder: str, files: Mapping[str, FileState]) -> Iterator[Flaw]:
    records = [name for name in files if RECORD.match(name)]
    if not records:
        return
    about, path = _join(folder, ".metadata"), _join(folder, min(records))
    metadata = [file_state for name, file_state in files.items() if METADATA.match(name)]
    if not metadata or ".metadata.tmp" in files:
        reason = f"{about}, which torch.distributed.checkpoint writes last, is missing"
        yield Flaw(path, reason, about, is_certain=True)
    elif max(file_state.mtime_ns for file_state in metadata) < max(
        files[record].mtime_ns for record in records
    ):
        yield Flaw(path, f"{about} is older than the records that it describes", about)


def _tensorflow(folder: str, files: Mapping[str, FileState]) -> Iterator[Flaw]:
    for name in files:
        match = DATA_OF_TENSORFLOW.match(name)
        if match and f"{match['name']}.index" not in files:
            about = _join(folder, f"{match['name']}.index")
            yield Flaw(_join(folder, name), f"{about} is missing", about, is_certain=True)


def temporary_of_orbax(path: str) -> str:
    """Return the folder that Orbax renames when a save is complete, or an empty string."""
    if ORBAX_TEMPORARY not in path:
        return ""
    names = path.split("/")
    level = next(level for level, name in enumerate(names) if ORBAX_TEMPORARY in name)
    return "/".join(names[: level + 1])


def tracked_number(content: str) -> int | None:
    """Return the number of the save that a tracker names in its first line."""
    line = content.lstrip().partition("\n")[0]
    found = DIGITS.findall(FILE_TYPE.sub("", line))
    return int(found[-1]) if found else None


def names_save(content: str, path: str) -> bool:
    """Return whether a small text names the save that `path` belongs to, by name or number."""
    place = place_of(path)
    if place.number is None:
        return False
    if content.strip().isdecimal():
        return int(content.strip()[:12]) == place.number
    level = place.parent.count("/") + 1 if place.parent else 0
    name = path.split("/")[level]
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", content) is not None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
