"""CloudWatch Logs: what the trainer said, from a position on."""

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated


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
