"""Requests from outside, as files: SSM runs `runctl-agent drain`, the agent finds the file."""

import contextlib
import os
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path


class Request(str, Enum):
    """What can be asked of a running agent."""

    DRAIN = "drain"  # EC2 will take the instance: save and report, but never shut down
    CHECKPOINT = "checkpoint"  # save now and go on
    STOP = "stop"  # the user wants the end: save, report, shut down


def leave(folder: Path, request: Request) -> None:
    """Leave a request for the agent; asking twice is asking once."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{request.value}.{os.getpid()}"
    temporary.write_text(datetime.now(timezone.utc).isoformat())
    temporary.replace(folder / request.value)


def collect(folder: Path) -> list[tuple[Request, datetime]]:
    """Take the requests that are there, each with the instant at which it was made."""
    found = []
    for request in Request:
        path = folder / request.value
        with contextlib.suppress(FileNotFoundError):
            made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
            path.unlink()
            found.append((request, made))
    return found
