"""CloudWatch Logs: streams of lines, written by agents and read from a position."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated

# The service never accepts such a batch, or has it already.
NOT_TO_BE_REPEATED = frozenset({"InvalidParameterException", "DataAlreadyAcceptedException"})


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of output."""

    at: datetime
    text: str


class LogReader:
    """Reads the streams of one log group."""

    def __init__(self, client: Any, *, group: str) -> None:
        self._client = client
        self._group = group

    def read(
        self, stream: str, *, position: str = "", since: datetime | None = None
    ) -> tuple[list[LogLine], str]:
        """Return the next lines after `position`, and the position after them.

        The same position again means that there is nothing new for now. A stream that does not
        exist yet is empty.
        """
        query: dict[str, Any] = {"nextToken": position} if position else {}
        if since is not None and not position:
            query["startTime"] = int(since.timestamp() * 1000)
        with translated():
            try:
                answer = self._client.get_log_events(
                    logGroupName=self._group, logStreamName=stream, startFromHead=True, **query
                )
            except ClientError as exc:
                if code_of(exc) == "ResourceNotFoundException":
                    return [], position
                raise
        lines = [
            LogLine(
                at=datetime.fromtimestamp(event["timestamp"] / 1000, timezone.utc),
                text=event["message"],
            )
            for event in answer["events"]
        ]
        return lines, answer.get("nextForwardToken", position)

    def streams(self, prefix: str) -> list[str]:
        """Return the streams whose names begin with a prefix, in the order of their names."""
        with translated():
            try:
                answer = self._client.describe_log_streams(
                    logGroupName=self._group, logStreamNamePrefix=prefix
                )
            except ClientError as exc:
                if code_of(exc) == "ResourceNotFoundException":
                    return []
                raise
        return [str(stream["logStreamName"]) for stream in answer["logStreams"]]


class LogWriter:
    """Implements `runctl.agent.ports.LogStreams` in one log group; for one thread at a time."""

    def __init__(self, client: Any, *, group: str) -> None:
        self._client = client
        self._group = group
        self._created: set[str] = set()

    def put(self, stream: str, events: Sequence[tuple[int, str]]) -> None:
        """Append events (milliseconds and text) to a stream, which is created if necessary.

        A batch that the service would never accept is dropped. After any other error the call may
        be repeated: a lost answer can lead to the same lines twice.
        """
        with translated():
            try:
                self._create(stream)
                self._client.put_log_events(
                    logGroupName=self._group,
                    logStreamName=stream,
                    logEvents=[{"timestamp": at, "message": text} for at, text in events],
                )
            except ClientError as exc:
                if code_of(exc) not in NOT_TO_BE_REPEATED:
                    # The stream may have been deleted.
                    self._created.discard(stream)
                    raise

    def _create(self, stream: str) -> None:
        if stream in self._created:
            return
        try:
            self._client.create_log_stream(logGroupName=self._group, logStreamName=stream)
        except ClientError as exc:
            if code_of(exc) != "ResourceAlreadyExistsException":
                raise
        self._created.add(stream)
