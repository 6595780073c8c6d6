"""Uploads of what the trainer left in RUNCTL_OUTPUT_DIR."""

import logging
import os
import time
from pathlib import Path

from runctl.agent.ports import Outputs
from runctl.beneath.folder import Folder, OutsideError, walk
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import RunctlError, TransientError

# What S3 stores as one object.
MAX_OBJECT_BYTES = 5 << 40

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
    its token: a file that a later attempt has uploaded is left alone, whichever was first. A link
    to a file below `folder` counts as that file; any other link is left out, as is what S3 cannot
    store. Raises TransientError if an upload failed.
    """
    count = 0
    try:
        with Folder.opened(folder) as root:
            for found in walk(root):
                if found.is_folder:
                    continue
                if time.monotonic() > until:
                    logger.warning(
                        "no time is left for the output %a and those after it", found.path
                    )
                    return count
                count += _upload_one(outputs, root, found.path, prefix, attempt)
    except (FileNotFoundError, NotADirectoryError) as exc:
        logger.warning("the outputs cannot be read: %s", exc)
    return count


def _upload_one(outputs: Outputs, root: Folder, path: str, prefix: str, attempt: int) -> bool:
    """Upload a file or what a link inside names; return whether it was stored."""
    output = prefix + _name_of(path)
    try:
        descriptor = root.open_inside(path)
    except FileNotFoundError:
        return False  # a pipe, a link to a folder, or it is gone
    except OutsideError:
        logger.warning("the output %s is a link out of the folder of outputs: not stored", output)
        return False
    except OSError as exc:
        raise TransientError(f"the output {path!a} could not be uploaded: {exc}") from exc
    try:
        file = OpenedFile(descriptor, path)
        if file.size_bytes > MAX_OBJECT_BYTES:
            logger.warning("the output %s is larger than an object can be: not stored", output)
            return False
        is_stored = outputs.put(output, file, attempt=attempt)
    except (RunctlError, OSError, ValueError) as exc:
        raise TransientError(f"the output {path!a} could not be uploaded: {exc}") from exc
    finally:
        os.close(descriptor)
    if not is_stored:
        logger.info("the output %s of a later attempt is kept", output)
    return is_stored


def _name_of(path: str) -> str:
    """Name an output in S3, whose keys are UTF-8: any other byte is written as an escape."""
    return os.fsencode(path).decode(errors="backslashreplace")
