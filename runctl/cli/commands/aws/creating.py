"""Unanswered launch requests, kept on this machine and repeated verbatim."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO

from runctl.model.errors import RunctlError, TransientError

# EC2 does not document how long it remembers a token; a command is repeated within this time.
REPEATED_WITHIN = timedelta(minutes=10)

Document = Mapping[str, str]


def default_folder() -> Path:
    """Return the folder in which requests are kept until they are answered."""
    return Path.home() / ".local/state/runctl/creating"


@contextlib.contextmanager
def replayable(
    key: str, build: Callable[[], Document], *, folder: Path | None = None
) -> Iterator[tuple[Document, bool]]:
    """Yield the request for a key, and whether it was sent before.

    A request whose answer was lost, by a timeout or because its command was killed, is sent again:
    its token makes EC2 return the instance that it launched then. A request that another command
    is waiting for is not repeated, since two instances may be wanted. The body sends the request;
    any answer, even a refusal, removes the record.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    with contextlib.ExitStack() as held:
        try:
            path, document, is_repeat = _claim(folder or default_folder(), digest, build, held)
        except OSError:  # without a writable folder, a lost answer cannot be replayed
            yield build(), False
            return
        try:
            yield document, is_repeat
        except Exception as exc:
            if _is_answer(exc):
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _claim(
    folder: Path, digest: str, build: Callable[[], Document], held: contextlib.ExitStack
) -> tuple[Path, Document, bool]:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob(f"{digest}-*.json")):
        with contextlib.suppress(OSError, ValueError):
            stream = held.enter_context(path.open("r+"))
            _lock(stream)
            if time.time() - path.stat().st_mtime <= REPEATED_WITHIN.total_seconds():
                document: Document = json.load(stream)
                return path, document, True
            path.unlink()
    path = folder / f"{digest}-{secrets.token_hex(4)}.json"
    fresh = build()
    stream = held.enter_context(path.open("x"))
    _lock(stream)
    json.dump(dict(fresh), stream)
    stream.flush()
    return path, fresh, False


def _is_answer(error: Exception) -> bool:
    """Whether EC2 has refused; any other error may have followed a launch."""
    return isinstance(error, RunctlError) and not isinstance(error, TransientError)


def _lock(stream: IO[str]) -> None:
    """Lock a record until the process ends; raises OSError if another process holds it."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
