"""The AWS services that the agent uses besides the ledger and the checkpoint store.

`runctl.aws` implements them. Each call raises TransientError if waiting may help, RefusedError if a
permission is missing, and UnexpectedAwsError otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from runctl.beneath.opened_file import OpenedFile
from runctl.model.group import WarmInstance
from runctl.model.input_sources import InputSource, StoredObject
from runctl.model.node import NodeId
from runctl.model.object_checksums import Checksum


class Workflow(Protocol):
    """The Train task of the state machine, by its token."""

    def beat(self, token: str) -> bool:
        """Send a heartbeat; False when the token is no longer valid."""
        ...

    def report(self, token: str, document: Mapping[str, Any]) -> bool:
        """Complete the task with its report; False when the token is no longer valid."""
        ...


class Judge(Protocol):
    """The function that decides whether trials of a sweep go on."""

    def goes_on(self, function: str, run_id: str, *, rung: int, value: float) -> bool:
        """Return whether a trial goes on after a rung at which its metric has a value."""
        ...


class LogStreams(Protocol):
    """Streams of log lines."""

    def put(self, stream: str, events: Sequence[tuple[int, str]]) -> None:
        """Append events (milliseconds and text) to a stream, which is created if necessary.

        Drops a batch that would never be accepted; after any other error the call may be repeated.
        """
        ...


class Blob(Protocol):
    """An open object; its chunks can be read once."""

    @property
    def size_bytes(self) -> int:
        """The size of the object."""
        ...

    @property
    def chunks(self) -> Iterator[bytes]:
        """Its content; TransientError when it cannot be read to its end."""
        ...


class Blobs(Protocol):
    """Objects that are read and written whole, by key."""

    def put(self, key: str, body: bytes) -> None:
        """Store an object, and replace an existing one."""
        ...

    def open(self, key: str, *, bucket: str = "") -> AbstractContextManager[Blob]:
        """Open an object of this or another bucket; NotFoundError if there is none.

        RefusedError if it may not be read, which may also be S3's answer for a missing object.
        """
        ...

    def keys(self, prefix: str) -> list[str]:
        """Return the keys with a prefix."""
        ...


class ObjectPart(Protocol):
    """A range of an object that is being read; of a whole object the checksum is known, too."""

    @property
    def checksum(self) -> Checksum:
        """By what the content of the whole object can be verified."""
        ...

    @property
    def chunks(self) -> Iterator[bytes]:
        """Its bytes; TransientError when they cannot be read to their end."""
        ...


class Inputs(Protocol):
    """Objects of any bucket, read as they were when they were listed.

    Each call raises RequestError, with the remedy, for what waiting does not change.
    """

    def list_objects(self, source: InputSource) -> Iterator[StoredObject]:
        """Yield the objects of an input in the order of their keys, markers of folders included."""
        ...

    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        """Return by what the content of an object can be verified."""
        ...

    def open(
        self, source: InputSource, found: StoredObject, *, offset: int, size_bytes: int
    ) -> AbstractContextManager[ObjectPart]:
        """Open a range of an object; RequestError if it has changed since it was listed."""
        ...


class Outputs(Protocol):
    """The outputs of a run."""

    def put(self, name: str, file: OpenedFile, *, attempt: int) -> bool:
        """Store a file as an output unless a later attempt has stored it; False in that case.

        OSError if the file cannot be read.
        """
        ...


class WarmItems(Protocol):
    """What the ledger knows of this instance between two runs of a group."""

    def offer_warm(self, offer: WarmInstance) -> WarmInstance:
        """Record that this instance waits for another run; return what the ledger holds."""
        ...

    def find_warm(self, group_id: str, instance_id: str) -> WarmInstance | None:
        """Return what is known of it, read consistently, or None."""
        ...

    def withdraw_offer(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        """Record that it ends, unless it was claimed; return what the ledger holds."""
        ...


class PlainObjects(Blobs, Protocol):
    """Objects of the user's own bucket, where the monitor keeps files as they are."""

    def upload(self, key: str, path: Path) -> None:
        """Store a file of any size; FileNotFoundError if there is none."""
        ...

    def copy(self, source: str, key: str) -> None:
        """Copy an object of any size."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""
        ...


class Shards(Protocol):
    """The shards of a processing job. Every call may be repeated."""

    def fetch_plan(self, path: Path) -> None:
        """Store the plan in a file; NotFoundError if there is none."""
        ...

    def done(self, *, first: int, last: int) -> Iterator[int]:
        """Yield the numbers of the shards from `first` to `last` that have a result."""
        ...

    def failures(self, *, first: int, last: int) -> Iterator[Mapping[str, Any]]:
        """Yield the results of the shards from `first` to `last` that failed for good."""
        ...

    def find_result(self, shard: int) -> str | None:
        """Return the result of a shard as it is stored, None if it has none."""
        ...

    def commit(self, shard: int, line: str, *, attempt: int) -> bool:
        """Complete a shard by its result; False if a later attempt has completed it."""
        ...

    def record_failure(self, shard: int, line: str) -> None:
        """Store the result of a shard that failed for good."""
        ...

    def put_output(
        self, uri: str, name: str, file: OpenedFile, *, shard: int, attempt: int
    ) -> None:
        """Store a file of a shard below the output's prefix.

        RequestError, with the remedy, if another shard has stored it, or it may not be written.
        """
        ...

    def put_index(self, uri: str, path: Path) -> None:
        """Store the index of the job below the output's prefix."""
        ...

    def put_index_part(self, first_shard: int, path: Path) -> None:
        """Store the part of the index that begins with a shard."""
        ...

    def put_checkpoint(self, shard: int, path: Path) -> None:
        """Store the packed checkpoint folder of an interrupted shard."""
        ...

    def checkpoints(self) -> set[int]:
        """Return the shards whose checkpoint folder is stored."""
        ...

    def fetch_checkpoint(self, shard: int, path: Path) -> None:
        """Fetch the packed checkpoint folder of a shard; NotFoundError if there is none."""
        ...

    def remove_checkpoint(self, shard: int) -> None:
        """Remove the checkpoint folder of a shard; a missing one is fine."""
        ...
