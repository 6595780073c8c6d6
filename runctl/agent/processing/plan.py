"""The plan of a job's shards, in a file of the instance."""

from pathlib import Path

from runctl.model.errors import RequestError
from runctl.model.shard import PlanHeader, Shard


class Plan:
    """The shards that a run processes, `numbers`; each is read from the file when it is needed."""

    def __init__(self, path: Path, *, first: int, count: int) -> None:
        """Read the file once; `count` is 0 for all shards. Raises RequestError if it is damaged."""
        self._path = path
        self._offsets: list[int] = []
        with path.open("rb") as stream:
            self.header = PlanHeader.from_line(stream.readline().decode())
            offset = stream.tell()
            for line in stream:
                self._offsets.append(offset)
                offset += len(line)
        if len(self._offsets) != self.header.shards:
            raise RequestError(
                f"the plan of shards is damaged: it has {len(self._offsets)} of "
                f"{self.header.shards}"
            )
        self.numbers = range(first, min(first + (count or self.header.shards), self.header.shards))

    def shard(self, number: int) -> Shard:
        """Return a shard."""
        with self._path.open("rb") as stream:
            stream.seek(self._offsets[number])
            return Shard.from_line(stream.readline().decode())
