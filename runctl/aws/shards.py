"""The shards of a processing job in S3: their plan, their results, and the files they write."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.aws.missing_objects import MISSING, get_object
from runctl.aws.outputs import ATTEMPT, CHANGED, MAX_CONFLICTS, put_file
from runctl.beneath.opened_file import OpenedFile
from runctl.model import identity
from runctl.model.errors import NotFoundError, RequestError, TransientError
from runctl.model.shard import read_result

SHARD = "runctl-shard"
CHUNK_BYTES = 1024 * 1024


class ShardStore:
    """Implements `runctl.agent.ports.Shards` for one job, which is a run or a group of runs.

    `bucket` is the deployment's own. The output may be in another.
    """

    def __init__(self, client: Any, *, bucket: str, job: str) -> None:
        self._client = client
        self._bucket = bucket
        self._job = job

    def fetch_plan(self, path: Path) -> None:
        """Store the plan in a file; NotFoundError if there is none."""
        self._download(identity.plan_key(self._job), path)

    def done(self, *, first: int, last: int) -> Iterator[int]:
        """Yield the numbers of the shards from `first` to `last` that have a result."""
        for key in self._keys("done/", first=first):
            if (number := _number_of(key)) > last:
                return
            yield number

    def failures(self, *, first: int, last: int) -> Iterator[Mapping[str, Any]]:
        """Yield the results of the shards from `first` to `last` that failed for good."""
        for key in self._keys("failed/", first=first):
            if _number_of(key) > last:
                return
            yield read_result(self._read(key))

    def find_result(self, shard: int) -> str | None:
        """Return the result of a shard as it is stored, None if it has none."""
        try:
            return self._read(identity.result_key(self._job, shard))
        except NotFoundError:
            return None

    def commit(self, shard: int, line: str, *, attempt: int) -> bool:
        """Complete a shard by its result; return whether this or an earlier call did so.

        A result is written once. The exception is that of an earlier attempt, which has gone on
        although this one owns the run: the objects of this attempt have replaced its own, and so
        does its result. False for a result of a later attempt.
        """
        place = {"Bucket": self._bucket, "Key": identity.result_key(self._job, shard)}
        condition = {"IfNoneMatch": "*"}
        for _ in range(MAX_CONFLICTS):
            with translated():
                try:
                    self._client.put_object(**place, **condition, Body=line.encode())
                except ClientError as exc:
                    if code_of(exc) not in CHANGED:
                        raise
                else:
                    return True
                try:
                    answer = self._client.get_object(**place)
                except ClientError as exc:
                    if code_of(exc) not in MISSING:
                        raise
                    condition = {"IfNoneMatch": "*"}
                    continue
                stored = answer["Body"].read().decode()
            if stored == line:
                return True  # the answer to an earlier request was lost
            if read_result(stored)["attempt"] > attempt:
                return False
            condition = {"IfMatch": str(answer["ETag"])}
        raise TransientError(f"another writer keeps changing {place['Key']}")

    def record_failure(self, shard: int, line: str) -> None:
        """Store the result of a shard that failed for good."""
        self._put(identity.failure_key(self._job, shard), line.encode())

    def put_output(
        self, uri: str, name: str, file: OpenedFile, *, shard: int, attempt: int
    ) -> None:
        """Store a file of a shard below the output's prefix.

        An earlier, unfinished try of the same shard may have stored it already: it is replaced.
        RequestError, with the remedy, if another shard has stored it, or it may not be written.
        FileNotFoundError or another OSError if the file cannot be read.
        """
        bucket, prefix = _split(uri)
        place = {"Bucket": bucket, "Key": f"{prefix}{name}"}
        owner = f"{self._job}/{shard}"
        metadata = {SHARD: owner, ATTEMPT: str(attempt)}
        condition: Mapping[str, str] = {"IfNoneMatch": "*"}
        for _ in range(MAX_CONFLICTS):
            with translated():
                try:
                    put_file(self._client, file, place, condition, metadata)
                except ClientError as exc:
                    if code_of(exc) in {"AccessDenied", "403", "NoSuchBucket"}:
                        raise RequestError(_unwritable(uri, exc)) from exc
                    if code_of(exc) not in CHANGED:
                        raise
                else:
                    return
                condition = self._condition(place, owner, name, attempt)
        raise TransientError(f"another writer keeps changing {place['Key']}")

    def _condition(
        self, place: Mapping[str, str], owner: str, name: str, attempt: int
    ) -> Mapping[str, str]:
        """Return the condition under which an existing object is replaced by the same shard's."""
        try:
            stored = self._client.head_object(**place)
        except ClientError as exc:
            if code_of(exc) not in MISSING:
                raise
            return {"IfNoneMatch": "*"}
        metadata = stored.get("Metadata", {})
        held = str(metadata.get(SHARD, ""))
        if held != owner:
            job, _, other = held.rpartition("/")
            raise RequestError(
                f"shard {other} has written {name}, too; put the number of the shard "
                "(RUNCTL_SHARD) into the names of the files"
                if job == self._job
                else f"{name} exists below the output, and no shard of this run has written it; "
                "choose an output that nothing else writes to"
            )
        number = str(metadata.get(ATTEMPT, ""))
        if number.isdigit() and int(number) > attempt:
            raise RequestError(f"a later attempt has written {name}")
        return {"IfMatch": str(stored["ETag"])}

    def put_index(self, uri: str, path: Path) -> None:
        """Store the index of the job below the output's prefix."""
        bucket, prefix = _split(uri)
        self._put_own(path, {"Bucket": bucket, "Key": f"{prefix}_index.jsonl"})

    def put_index_part(self, first_shard: int, path: Path) -> None:
        """Store the part of the index that begins with a shard."""
        key = identity.index_part_key(self._job, first_shard)
        self._put_own(path, {"Bucket": self._bucket, "Key": key})

    def put_checkpoint(self, shard: int, path: Path) -> None:
        """Store the packed checkpoint folder of an interrupted shard."""
        key = identity.shard_checkpoint_key(self._job, shard)
        self._put_own(path, {"Bucket": self._bucket, "Key": key})

    def _put_own(self, path: Path, place: Mapping[str, str]) -> None:
        with translated(), OpenedFile.at(path) as file:
            put_file(self._client, file, place, {}, {})

    def checkpoints(self) -> set[int]:
        """Return the shards whose checkpoint folder is stored."""
        prefix = identity.shard_checkpoint_key(self._job, 0).rpartition("/")[0] + "/"
        return {_number_of(key) for key in self._listed(prefix)}

    def fetch_checkpoint(self, shard: int, path: Path) -> None:
        """Fetch the packed checkpoint folder of a shard; NotFoundError if there is none."""
        self._download(identity.shard_checkpoint_key(self._job, shard), path)

    def remove_checkpoint(self, shard: int) -> None:
        """Remove the checkpoint folder of a shard; a missing one is fine."""
        key = identity.shard_checkpoint_key(self._job, shard)
        with translated():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _keys(self, kind: str, *, first: int = 0) -> Iterator[str]:
        prefix = f"{identity.shards_prefix(self._job)}{kind}"
        after = f"{prefix}{first - 1:08d}.json" if first else ""
        yield from self._listed(prefix, after=after)

    def _listed(self, prefix: str, *, after: str = "") -> Iterator[str]:
        start = {"StartAfter": after} if after else {}
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, **start
            )
        )
        while True:
            with translated():
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Contents", ()):
                if item["Size"]:
                    yield item["Key"]

    def _read(self, key: str) -> str:
        with translated():
            answer = get_object(self._client, self._bucket, key)
            return str(answer["Body"].read().decode(errors="replace"))

    def _put(self, key: str, body: bytes) -> None:
        with translated():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body)

    def _download(self, key: str, path: Path) -> None:
        part = path.with_name(f"{path.name}.{threading.get_ident()}")
        with translated():
            answer = get_object(self._client, self._bucket, key)
            with contextlib.closing(answer["Body"]) as body, part.open("wb") as stream:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    stream.write(chunk)
        part.replace(path)


def _number_of(key: str) -> int:
    name = key.rpartition("/")[2].partition(".")[0]
    return int(name) if name.isdigit() else -1


def _split(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix


def _unwritable(uri: str, exc: ClientError) -> str:
    return (
        f"{uri} may not be written ({code_of(exc)}); name the bucket in the context "
        "`writable_buckets` and deploy again"
    )
