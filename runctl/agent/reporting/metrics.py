"""The trainer's metrics: its lines go to S3 in chunks, their last values to the ledger."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from runctl.agent.ports import Blobs
from runctl.agent.reporting.json_lines import Follower
from runctl.agent.reporting.progress import Progress
from runctl.model import identity
from runctl.model.errors import FencedError, RunctlError
from runctl.model.metrics import Measured, read_metrics
from runctl.model.node import NodeId
from runctl.model.trackers import read_mlflow_run

INTERVAL = timedelta(milliseconds=200)
CHUNK_AFTER = timedelta(seconds=30)
CHUNK_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


class MetricsShipper:
    """Follows RUNCTL_METRICS_FILE."""

    def __init__(
        self,
        blobs: Blobs,
        path: Path,
        progress: Progress,
        *,
        node: NodeId,
        record_mlflow_run: Callable[[str], None] = lambda _: None,
        observe: Callable[[Measured], None] = lambda _: None,
    ) -> None:
        """`observe` is called with each line."""
        self._blobs = blobs
        self._follower = Follower(path)
        self._progress = progress
        self._observe = observe
        self._prefix = identity.metrics_prefix(*node)
        self._record_mlflow_run = record_mlflow_run
        self._mlflow_run = ""
        self._waiting: list[str] = []
        self._waiting_bytes = 0
        self._shipped = time.monotonic()
        self._last_named = 0
        self._has_metrics = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to follow the file."""
        self._thread.start()

    def stop(self, *, within: timedelta) -> None:
        """Ship what is left, as far as time allows."""
        self._stop.set()
        self._thread.join(timeout=within.total_seconds())

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL.total_seconds()):
            self._collect(everything=False)
            self._keep_mlflow_run()
            due = time.monotonic() - self._shipped >= CHUNK_AFTER.total_seconds()
            if due or self._waiting_bytes >= CHUNK_BYTES:
                self._ship()
        self._collect(everything=True)
        self._keep_mlflow_run()
        self._ship()

    def _collect(self, *, everything: bool) -> None:
        """Read the available lines; those that cannot be stored yet stay in the file."""
        while self._waiting_bytes < CHUNK_BYTES or self._ship():
            lines = self._follower.read(everything=everything)
            if not lines:
                return
            for line in lines:
                self._note(line)

    def _note(self, line: str) -> None:
        measured = read_metrics(line)
        if measured is None:
            return
        self._mlflow_run = read_mlflow_run(line) or self._mlflow_run
        if not self._has_metrics:
            self._has_metrics = True
            self._progress.mark("first_step")
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._progress.measure(measured.step, measured.values, measured.not_finite)
        self._observe(measured)

    def _keep_mlflow_run(self) -> None:
        """Store the named run of MLflow for the next attempt; an error is tried again."""
        if not self._mlflow_run:
            return
        try:
            self._record_mlflow_run(self._mlflow_run)
        except FencedError:
            logger.info("a later attempt owns the run, so its run of MLflow is not stored")
        except RunctlError as exc:
            logger.warning("the run of MLflow could not be stored yet: %s", exc)
            return
        self._mlflow_run = ""

    def _ship(self) -> bool:
        """Store the waiting lines; return whether none is left."""
        self._shipped = time.monotonic()
        if not self._waiting:
            return True
        # Named by time: an agent that was started again must not overwrite earlier chunks.
        self._last_named = max(time.time_ns() // 1_000_000, self._last_named + 1)
        key = f"{self._prefix}{self._last_named:013d}.jsonl"
        body = "".join(f"{line}\n" for line in self._waiting).encode(errors="replace")
        try:
            self._blobs.put(key, body)
        except RunctlError as exc:
            logger.warning("metrics could not be stored yet: %s", exc)
            return False
        self._waiting, self._waiting_bytes = [], 0
        return True
