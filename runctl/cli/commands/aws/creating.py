"""What was asked of EC2 and not answered: kept on this machine, and asked again word for word."""

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

# EC2 does not say for how long it remembers a token; whoever repeats a command does so by then.
REPEATED_WITHIN = timedelta(minutes=10)

Document = Mapping[str, str]


def default_folder() -> Path:
    """Return where requests are kept until they are answered."""
    return Path.home() / ".local/state/runctl/creating"


@contextlib.contextmanager
def replayable(
    wish: str, make: Callable[[], Document], *, folder: Path | None = None
) -> Iterator[tuple[Document, bool]]:
    """Give the request for a wish, and whether it is one that was sent before.

    That is one of the same wish whose answer was lost, by a timeout or because its command was
    killed: with its token EC2 answers with what it launched then. One that another command waits
    for at this moment is not ours, since two machines may be wanted. The body sends the request:
    when it is done, or refused, that was the answer, and the record goes.
    """
    digest = hashlib.sha256(wish.encode()).hexdigest()[:32]
    with contextlib.ExitStack() as held:
        try:
            path, document, is_repeat = _take(folder or default_folder(), digest, make, held)
        except OSError:  # nowhere to write to: as good as it gets
            yield make(), False
            return
        try:
            yield document, is_repeat
        except Exception as exc:
            if _is_answer(exc):
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _take(
    folder: Path, digest: str, make: Callable[[], Document], held: contextlib.ExitStack
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
    fresh = make()
    stream = held.enter_context(path.open("x"))
    _lock(stream)
    json.dump(dict(fresh), stream)
    stream.flush()
    return path, fresh, False


def _is_answer(error: Exception) -> bool:
    """Whether EC2 has refused; what is neither ours nor AWS's may have come after a launch."""
    # An answer that nothing foresees is one too; botocore may not even be imported.
    is_aws = type(error).__module__.partition(".")[0] == "botocore"
    return is_aws or (isinstance(error, RunctlError) and not isinstance(error, TransientError))


def _lock(stream: IO[str]) -> None:
    """Hold a record for as long as the process lives; OSError when another one does."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
