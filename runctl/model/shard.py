"""Shards: the parts into which the input of a processing run is split, and what became of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from runctl.model.errors import RequestError
from runctl.model.input_sources import StoredObject

# Below the prefix of the output.
INDEX = "_index.jsonl"
CLAIM = "_run.json"
RESERVED = frozenset({INDEX, CLAIM})

DONE = "done"
FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One part of the input; its script runs once. `number` begins at 0."""

    number: int
    files: tuple[StoredObject, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all its files."""
        return sum(found.size_bytes for found in self.files)

    def as_line(self) -> str:
        """Return the shard's line of a plan."""
        files = [[found.key, found.size_bytes, found.etag] for found in self.files]
        return json.dumps({"shard": self.number, "files": files}, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> "Shard":
        """Read a line of a plan; RequestError if it is not one."""
        try:
            document = json.loads(line)
            return cls(
                number=int(document["shard"]),
                files=tuple(
                    StoredObject(str(key), int(size), str(etag))
                    for key, size, etag, *_ in document["files"]
                ),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise RequestError(f"the plan of shards is damaged: {line[:100]!a}") from exc


@dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """The first line of a plan: what it is made of, and its size.

    `run_id` and `started_at` are those of the job that it belongs to.
    """

    run_id: str
    started_at: datetime
    input: str
    output: str
    shards: int
    files: int
    size_bytes: int
    largest_bytes: int

    def as_line(self) -> str:
        """Return the line."""
        return json.dumps(
            {
                "version": 1,
                "run_id": self.run_id,
                "started_at": self.started_at.isoformat(),
                "input": self.input,
                "output": self.output,
                "shards": self.shards,
                "files": self.files,
                "size_bytes": self.size_bytes,
                "largest_bytes": self.largest_bytes,
            }
        )

    @classmethod
    def from_line(cls, line: str) -> "PlanHeader":
        """Read the line; RequestError if it is not one."""
        try:
            document = json.loads(line)
            return cls(
                run_id=str(document["run_id"]),
                started_at=datetime.fromisoformat(document["started_at"]),
                input=str(document["input"]),
                output=str(document["output"]),
                shards=int(document["shards"]),
                files=int(document["files"]),
                size_bytes=int(document["size_bytes"]),
                largest_bytes=int(document["largest_bytes"]),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise RequestError(f"the plan of shards is damaged: {line[:100]!a}") from exc


@dataclass(frozen=True, kw_only=True)
class ShardOutput:
    """A file that a shard has written, by its name below the prefix of the output."""

    name: str
    size_bytes: int
    sha256: str

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"name": self.name, "size_bytes": self.size_bytes, "sha256": self.sha256}


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of a shard: its line in the index, and the document that commits it.

    `tries` counts the calls of its script in the attempt that ended it, and `seconds` is how long
    the last one took. `reason` says why it failed.
    """

    shard: int
    status: str
    run_id: str
    attempt: int
    tries: int
    seconds: float
    inputs: tuple[StoredObject, ...]
    ended_at: datetime
    outputs: tuple[ShardOutput, ...] = field(default=())
    reason: str = ""

    def as_line(self) -> str:
        """Return the JSON form, in one line."""
        document: dict[str, Any] = {
            "shard": self.shard,
            "status": self.status,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "tries": self.tries,
            "seconds": round(self.seconds, 3),
            "ended_at": self.ended_at.astimezone(timezone.utc).isoformat(),
            "inputs": [
                {"key": found.key, "size_bytes": found.size_bytes, "etag": found.etag.strip('"')}
                for found in self.inputs
            ],
            "outputs": [output.as_document() for output in self.outputs],
        }
        if self.reason:
            document["reason"] = self.reason
        return json.dumps(document, separators=(",", ":"))


def read_result(line: str) -> Mapping[str, Any]:
    """Read a result leniently, whichever version wrote it; RequestError if it is damaged."""
    try:
        document = json.loads(line)
        attempt = int(document.get("attempt", 0))
        return {**document, "shard": int(document["shard"]), "attempt": attempt}
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise RequestError(f"the result of a shard is damaged: {line[:100]!a}") from exc
