"""The curves of earlier attempts: TensorBoard's files, put back before a program continues them."""

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from runctl.agent.ports import Blobs
from runctl.beneath.folder import Folder
from runctl.checkpoint.placing import NEW_FILE_FLAGS
from runctl.model import identity
from runctl.model.errors import RunctlError

MAX_BYTES = 1024**3

logger = logging.getLogger(__name__)


def restore_curves(blobs: Blobs, run_id: str, folder: Path) -> None:
    """Fetch the files that earlier attempts have stored and this machine does not have.

    Nothing depends on it, so an error is only logged: the curves of all attempts are complete in
    the outputs of the run, where each attempt has files of its own.
    """
    prefix = f"{identity.output_prefix(run_id)}{identity.TENSORBOARD}/"
    left = MAX_BYTES
    try:
        with Folder.opened(folder, make=True) as root:
            for key in blobs.keys(prefix):
                name = PurePosixPath(key.removeprefix(prefix))
                if ".." in name.parts or name.is_absolute():
                    continue
                above, _, last = name.as_posix().rpartition("/")
                at = root.at(above, make=True)
                if _exists(last, at):
                    continue
                with blobs.open(key) as blob:
                    left -= blob.size_bytes
                    if left < 0:
                        logger.warning("the curves of earlier attempts exceed %d bytes", MAX_BYTES)
                        return
                    _write(blob.chunks, last, at)
    except (RunctlError, OSError, ValueError) as exc:
        logger.warning("the curves of earlier attempts cannot be fetched: %s", exc)


def _exists(name: str, at: int) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write(chunks: Iterable[bytes], name: str, at: int) -> None:
    """Write a file that gets its name when it is complete."""
    incoming = f".{name}.incoming"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(incoming, dir_fd=at)
    with os.fdopen(os.open(incoming, NEW_FILE_FLAGS, 0o644, dir_fd=at), "wb") as stream:
        for chunk in chunks:
            stream.write(chunk)
    os.rename(incoming, name, src_dir_fd=at, dst_dir_fd=at)
