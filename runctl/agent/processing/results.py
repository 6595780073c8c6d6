"""The results of shards on the instance, and the index that is made of them."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runctl.agent.ports import Shards
from runctl.checkpoint.worker_pool import run_workers

# The number of results of earlier attempts that are in memory at once.
BATCH = 1000
THREADS = 16


class Results:
    """The lines that this attempt has committed, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._offsets: dict[int, int] = {}
        self._end = 0
        path.write_bytes(b"")

    def add(self, shard: int, line: str) -> None:
        """Keep the result of a shard."""
        content = f"{line}\n".encode()
        with self._lock, self._path.open("ab") as stream:
            stream.write(content)
            self._offsets[shard] = self._end
            self._end += len(content)

    def find(self, shard: int) -> str | None:
        """Return the result of a shard, None if another attempt has it."""
        with self._lock:
            offset = self._offsets.get(shard)
        if offset is None:
            return None
        with self._path.open("rb") as stream:
            stream.seek(offset)
            return stream.readline().decode().rstrip("\n")


def write_index(
    path: Path,
    numbers: Sequence[int],
    results: Results,
    store: Shards,
    failures: Mapping[int, Mapping[str, Any]],
) -> None:
    """Write the lines of all shards, in their order. A shard that is done has not failed."""
    with path.open("w") as stream:
        for begin in range(0, len(numbers), BATCH):
            for line in _lines(numbers[begin : begin + BATCH], results, store, failures):
                stream.write(f"{line}\n")


def _lines(
    numbers: Sequence[int],
    results: Results,
    store: Shards,
    failures: Mapping[int, Mapping[str, Any]],
) -> Iterator[str]:
    found = {number: results.find(number) for number in numbers}

    def fetch(jobs: Iterator[int]) -> None:
        for number in jobs:
            found[number] = store.find_result(number)

    missing = [number for number, line in found.items() if line is None]
    run_workers(missing, fetch, threads=THREADS)
    for number in numbers:
        line = found[number]
        if line is None and number in failures:
            line = json.dumps(dict(failures[number]), separators=(",", ":"))
        yield line or json.dumps({"shard": number, "status": "missing"})
