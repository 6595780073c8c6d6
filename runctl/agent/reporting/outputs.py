"""Uploads of what the trainer left in RUNCTL_OUTPUT_DIR."""

import logging
import os
import time
from pathlib import Path

from runctl.agent.ports import Outputs
from runctl.model.errors import RunctlError, TransientError

logger = logging.getLogger(__name__)


def upload_outputs(
    outputs: Outputs,
    folder: Path,
    *,
    attempt: int,
    prefix: str = "",
    until: float = float("inf"),
) -> int:
    """Upload every file below `folder`; return how many. `until` is a monotonic instant.

    The names of the outputs are those of the files, after a `prefix`.
    An interrupted attempt continues with this after its report, when the next one may already have
    its token: a file that a later attempt has uploaded is left alone, whichever was first. Symbolic
    links to files are followed, those to folders are not. Raises TransientError if an upload
    failed.
    """
    count = 0
    for base, _folders, files in os.walk(folder):
        for name in sorted(files):
            path = Path(base) / name
            if time.monotonic() > until:
                logger.warning("no time is left for the output %s and those after it", name)
                return count
            if not path.is_file():
                continue
            output = prefix + _name_of(path.relative_to(folder))
            try:
                is_stored = outputs.put(output, path, attempt=attempt)
            except FileNotFoundError:
                continue
            except (RunctlError, OSError, ValueError) as exc:
                raise TransientError(f"the output {name!a} could not be uploaded: {exc}") from exc
            if not is_stored:
                logger.info("the output %s of a later attempt is kept", output)
            count += is_stored
    return count


def _name_of(path: Path) -> str:
    """Name an output in S3, whose keys are UTF-8: any other byte is written as an escape."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")
