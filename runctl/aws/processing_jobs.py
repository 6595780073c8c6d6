"""Processing jobs in S3, as control functions see them: their plans, and their outputs."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.aws.missing_objects import MISSING, get_object
from runctl.aws.objects import FORBIDDEN, explain_write, misplaced
from runctl.aws.outputs import CHANGED
from runctl.model import identity
from runctl.model.errors import ForbiddenDataError
from runctl.model.shard import CLAIM, DONE, FAILED, INDEX, PlanHeader, read_result


class ProcessingJobs:
    """Implements `runctl.control.ports.processing.ProcessingJobs`; `bucket` is the deployment's."""

    def __init__(self, client: Any, *, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def put_plan(self, header: PlanHeader, lines: Iterable[str]) -> PlanHeader:
        """Store the plan of a job unless it has one; return the header of the one that it has."""
        place = {"Bucket": self._bucket, "Key": identity.plan_key(header.run_id)}
        body = "".join(f"{line}\n" for line in (header.as_line(), *lines)).encode()
        with translated():
            try:
                self._client.put_object(**place, IfNoneMatch="*", Body=body)
            except ClientError as exc:
                if code_of(exc) not in CHANGED:
                    raise
            else:
                return header
            answer = self._client.get_object(**place)
            first = next(answer["Body"].iter_lines(), b"").decode()
        held = PlanHeader.from_line(first)
        if held.started_at == header.started_at:
            return held
        # The name of an execution is free again after 90 days, and that of a job without a run.
        with translated():
            self._client.put_object(**place, Body=body)
        return header

    def find_plan(self, job: str) -> PlanHeader | None:
        """Return the header of a job's plan, None if it has none."""
        with translated():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=identity.plan_key(job))
            except ClientError as exc:
                if code_of(exc) in MISSING:
                    return None
                raise
            with contextlib.closing(answer["Body"]) as body:
                return PlanHeader.from_line(next(body.iter_lines(), b"").decode())

    def join_index(self, header: PlanHeader, first_shards: Sequence[int]) -> tuple[int, int]:
        """Store the index of a job from its parts; return how many shards are done and failed."""
        parts = []
        for first in first_shards:
            key = identity.index_part_key(header.run_id, first)
            with translated():
                parts.append(get_object(self._client, self._bucket, key)["Body"].read())
        states = Counter(
            read_result(line.decode()).get("status") for part in parts for line in part.splitlines()
        )
        bucket, prefix = _split(header.output)
        with translated():
            self._client.put_object(Bucket=bucket, Key=f"{prefix}{INDEX}", Body=b"".join(parts))
        return states[DONE], states[FAILED]

    def problem_with_output(self, uri: str) -> str:
        """Return why a job cannot write below a prefix, with the remedy, or an empty text.

        Raises ForbiddenDataError if the caller may not list the prefix.
        """
        bucket, prefix = _split(uri)
        own = f"s3://{self._bucket}/{identity.OUTPUTS_PREFIX}"
        if bucket == self._bucket and (problem := misplaced(uri, prefix, own=own)):
            return problem
        with translated():
            try:
                answer = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=2)
            except ClientError as exc:
                problem = explain_write(exc, uri, own=own)
                if problem and code_of(exc) in FORBIDDEN:
                    raise ForbiddenDataError(problem) from exc
                if problem:
                    return problem
                raise
        found = [item["Key"] for item in answer.get("Contents", ()) if item["Key"] != prefix]
        if found and found[0] != f"{prefix}{CLAIM}":
            return _occupied(uri, f"{found[0].removeprefix(prefix)!a}")
        return ""

    def claim_output(self, uri: str, *, job: str, started_at: datetime) -> str:
        """Reserve a prefix for a job; return why that is not possible, or an empty text."""
        bucket, prefix = _split(uri)
        place = {"Bucket": bucket, "Key": f"{prefix}{CLAIM}"}
        claim = {"run_id": job, "started_at": started_at.isoformat()}
        own = f"s3://{self._bucket}/{identity.OUTPUTS_PREFIX}"
        with translated():
            try:
                self._client.put_object(
                    **place, IfNoneMatch="*", Body=f"{json.dumps(claim)}\n".encode()
                )
            except ClientError as exc:
                if code_of(exc) not in CHANGED:
                    if problem := explain_write(exc, uri, own=own):
                        return problem
                    raise
            else:
                return ""
            stored = self._client.get_object(**place)["Body"].read()
        try:
            held = json.loads(stored)
        except ValueError:
            held = None
        if held == claim:
            return ""
        owner = held.get("run_id") if isinstance(held, dict) else None
        return _occupied(uri, f"the results of the run {owner}" if owner else CLAIM)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix


def _occupied(uri: str, what: str) -> str:
    return f"{uri} holds data already ({what}); remove it, or choose another prefix"
