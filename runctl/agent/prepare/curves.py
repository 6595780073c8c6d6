"""The curves of earlier attempts: TensorBoard's files, put back before a program continues them."""

import logging
import shutil
from pathlib import Path, PurePosixPath

from runctl.agent.ports import Blobs
from runctl.model import identity
from runctl.model.errors import RunctlError
from runctl.model.trackers import TENSORBOARD

MAX_BYTES = 1024**3

logger = logging.getLogger(__name__)


def restore_curves(blobs: Blobs, run_id: str, folder: Path) -> None:
    """Fetch the files that earlier attempts have stored and this machine does not have.

    Nothing depends on it, so an error is only logged: the curves of all attempts are complete in
    the outputs of the run, where each attempt has files of its own.
    """
    prefix = f"{identity.output_prefix(run_id)}{TENSORBOARD}/"
    left = MAX_BYTES
    try:
        for key in blobs.keys(prefix):
            name = PurePosixPath(key.removeprefix(prefix))
            path = folder / name
            if ".." in name.parts or name.is_absolute() or path.exists():
                continue
            with blobs.open(key) as blob:
                left -= blob.size_bytes
                if left < 0:
                    logger.warning("the curves of earlier attempts exceed %d bytes", MAX_BYTES)
                    return
                path.parent.mkdir(parents=True, exist_ok=True)
                incoming = path.with_name(f".{path.name}.incoming")
                with incoming.open("wb") as stream:
                    for chunk in blob.chunks:
                        stream.write(chunk)
            shutil.move(incoming, path)
    except (RunctlError, OSError, ValueError) as exc:
        logger.warning("the curves of earlier attempts cannot be fetched: %s", exc)
