"""Uploading what the trainer left in RUNCTL_OUTPUT_DIR."""

import logging
import os
import time
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from runctl.model import identity
from runctl.model.errors import TransientError

# Bounded memory: two parts of 8 MiB at a time.
TRANSFER = TransferConfig(
    multipart_threshold=8 * 1024 * 1024, multipart_chunksize=8 * 1024 * 1024, max_concurrency=2
)

logger = logging.getLogger(__name__)


def upload_outputs(
    client: Any, folder: Path, *, bucket: str, run_id: str, until: float = float("inf")
) -> int:
    """Upload every file below `folder`; return how many. `until` is a monotonic instant.

    Symbolic links to files are followed, those to folders are not. Raises TransientError when an
    upload failed though it was tried again.
    """
    count = 0
    for base, _folders, files in os.walk(folder):
        for name in sorted(files):
            path = Path(base) / name
            if time.monotonic() > until:
                logger.warning("no time is left for the output %s and what follows", name)
                return count
            if not path.is_file():
                continue
            key = identity.output_prefix(run_id) + path.relative_to(folder).as_posix()
            try:
                client.upload_file(str(path), bucket, key, Config=TRANSFER)
            except FileNotFoundError:
                continue
            except (Boto3Error, ClientError, BotoCoreError) as exc:
                raise TransientError(f"the output {name} could not be uploaded: {exc}") from exc
            count += 1
    return count
