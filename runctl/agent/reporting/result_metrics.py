"""The metrics of a run's result: from the file in its outputs to the ledger."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runctl.beneath.folder import Folder
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import FencedError, TransientError
from runctl.model.result_metrics import (
    FILE,
    MAX_METRICS_BYTES,
    BadMetricsError,
    read_result_metrics,
    too_large,
)

MAX_TRIES = 5
RETRY_SECONDS = 2.0

logger = logging.getLogger(__name__)


def find_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics that a program has written; there are none without a file.

    Raises BadMetricsError, with the remedy, if it cannot be stored.
    """
    try:
        with Folder.opened(folder) as opened:
            descriptor = opened.open_inside(FILE)
        try:
            file = OpenedFile(descriptor, FILE)
            content = file.read(0, MAX_METRICS_BYTES + 1)
            if len(content) > MAX_METRICS_BYTES:
                raise BadMetricsError(too_large(file.size_bytes))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):  # or something other than a file
        return {}
    except OSError as exc:
        raise BadMetricsError(f"it cannot be read: {exc.strerror}") from exc
    return read_result_metrics(content)


def record_metrics(folder: Path, store: Callable[[dict[str, Any]], None]) -> str:
    """Store the metrics of a program; return the warning about those that cannot be stored."""
    try:
        metrics = find_metrics(folder)
    except BadMetricsError as exc:
        return f"{FILE} is not part of the result: {exc}"
    if not metrics:
        return ""
    for number in range(1, MAX_TRIES + 1):
        try:
            store(metrics)
        except FencedError:
            return ""
        except TransientError as exc:
            logger.warning("the metrics could not be stored yet: %s", exc)
            if number == MAX_TRIES:
                return f"{FILE} could not be stored: {exc}"
            time.sleep(RETRY_SECONDS)
        else:
            return ""
    raise AssertionError("the last try returns")
