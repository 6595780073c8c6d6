"""Request files: SSM runs `runctl-agent drain`, which leaves a file for the running agent."""

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

from runctl.model.ec2_events import read_instant

DEADLINE = "RUNCTL_DEADLINE"


class Request(str, Enum):
    """A request to a running agent."""

    DRAIN = "drain"  # EC2 will take the instance: save and report, but never shut down
    CHECKPOINT = "checkpoint"  # save now and continue
    STOP = "stop"  # the user stops the run: save, report, shut down


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request, when it was made, and when EC2 takes the instance, if that is known."""

    request: Request
    made: datetime
    deadline: datetime | None = None


def write(folder: Path, request: Request, *, deadline: str = "") -> None:
    """Write a request for the agent. A second one replaces the first.

    The file contains the `deadline` in the format of AWS, or nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{request.value}.{os.getpid()}"
    temporary.write_text(deadline)
    temporary.replace(folder / request.value)


def collect(folder: Path) -> list[Received]:
    """Return the pending requests, and remove their files."""
    found = []
    for request in Request:
        path = folder / request.value
        with contextlib.suppress(FileNotFoundError):
            made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
            deadline = read_instant(path.read_text(errors="replace").strip())
            path.unlink()
            found.append(Received(request=request, made=made, deadline=deadline))
    return found
