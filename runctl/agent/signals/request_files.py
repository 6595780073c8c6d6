"""Requests from outside, as files: SSM runs `runctl-agent drain`, the agent finds the file."""

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

from runctl.model.ec2_events import read_instant

DEADLINE = "RUNCTL_DEADLINE"


class Request(str, Enum):
    """What can be asked of a running agent."""

    DRAIN = "drain"  # EC2 will take the instance: save and report, but never shut down
    CHECKPOINT = "checkpoint"  # save now and go on
    STOP = "stop"  # the user wants the end: save, report, shut down


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request, the instant at which it was made, and when the instance goes, if that is known."""

    request: Request
    made: datetime
    deadline: datetime | None = None


def leave(folder: Path, request: Request, *, deadline: str = "") -> None:
    """Leave a request for the agent; asking twice is asking once.

    The file holds the `deadline`, an instant as AWS writes it, or nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{request.value}.{os.getpid()}"
    temporary.write_text(deadline)
    temporary.replace(folder / request.value)


def collect(folder: Path) -> list[Received]:
    """Take the requests that are there."""
    found = []
    for request in Request:
        path = folder / request.value
        with contextlib.suppress(FileNotFoundError):
            made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
            deadline = read_instant(path.read_text(errors="replace").strip())
            path.unlink()
            found.append(Received(request=request, made=made, deadline=deadline))
    return found
