"""The split of an input into shards. Pure: the same listing always gives the same shards."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runctl.model.input_sources import StoredObject
from runctl.model.shard import Shard

# A plan is read by every instance, and a job writes an object for each shard.
MAX_SHARDS = 100_000
MAX_FILES = 200_000
BATCHES_AN_INSTANCE = 4


def plan_shards(
    objects: Iterable[StoredObject], *, most_files: int, most_bytes: int = 0
) -> Iterator[Shard]:
    """Yield the shards of the objects, which are in the order of their keys.

    Files are added to a shard until it has `most_files`, or the next one would exceed `most_bytes`
    (0 for no limit). A file that is larger than that is a shard by itself.
    """
    files: list[StoredObject] = []
    size_bytes = number = 0
    for found in objects:
        is_full = len(files) >= most_files or (
            most_bytes and size_bytes + found.size_bytes > most_bytes
        )
        if files and is_full:
            yield Shard(number=number, files=tuple(files))
            files, size_bytes, number = [], 0, number + 1
        files.append(found)
        size_bytes += found.size_bytes
    if files:
        yield Shard(number=number, files=tuple(files))


def tolerated(shards: int, *, part: float) -> int:
    """Return how many of the shards may fail."""
    # 0.29 * 100 is 28.999…, and 29 of 100 may fail.
    return math.floor(shards * part + 1e-9)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive shards of a job that one run processes; `number` begins at 1."""

    number: int
    first: int
    count: int


def divide(shards: int, *, instances: int) -> list[Batch]:
    """Divide the shards of a job into batches for its instances, as even as possible.

    Each instance has several, so that one that is fast takes more of them.
    """
    batches = min(shards, instances * BATCHES_AN_INSTANCE)
    edges = [shards * number // batches for number in range(batches + 1)]
    return [
        Batch(number=number + 1, first=first, count=edges[number + 1] - first)
        for number, first in enumerate(edges[:-1])
    ]


def batch_run_id(job: str, number: int) -> str:
    """Return the name of the run that processes a batch of a job."""
    return f"{job}-{number:04d}"
