"""The progress of the attempt, as the heartbeat stores it in the ledger."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from runctl.model.gang import GangReport
from runctl.model.metrics import MAX_NAMES
from runctl.model.node import NodeProgress
from runctl.model.saving import Saving
from runctl.model.service import Service
from runctl.model.shard_progress import ShardProgress
from runctl.model.staging import Staging


class Progress:
    """Phase, step, metrics and instants of the attempt; any thread may change them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = "boot"
        self._resume_step: int | None = None
        self._resume_save: int | None = None
        self._step: int | None = None
        self._metrics: dict[str, float] = {}
        self._not_finite: frozenset[str] = frozenset()
        self._timeline: dict[str, datetime] = {}
        self._warnings: dict[str, str] = {}
        self._saving: Saving | None = None
        self._staging: Staging | None = None
        self._service: Service | None = None
        self._environment_bytes = 0
        self._shards: ShardProgress | None = None
        self._gang: GangReport | None = None
        self._is_news = False
        self._on_change: Callable[[], None] = lambda: None

    def on_change(self, call: Callable[[], None]) -> None:
        """Set the function to call after a change that should not wait for the next beat."""
        self._on_change = call

    def enter(self, phase: str) -> None:
        """Begin a phase.

        They are boot, environment, image, inputs, restore, wait, train, evaluate, process, start,
        serve, drain, upload and done.
        """
        with self._lock:
            self._phase = phase
        self._on_change()

    def mark(self, instant: str, at: datetime | None = None) -> None:
        """Note when something happened; the latest time wins."""
        with self._lock:
            self._timeline[instant] = at or datetime.now(timezone.utc)
        self._on_change()

    def resume_from(self, *, step: int | None, save: int) -> None:
        """Note which checkpoint the trainer starts from."""
        with self._lock:
            self._resume_step, self._resume_save = step, save

    def begin_again(self) -> None:
        """Forget the measurements and warnings of an earlier trainer of this attempt."""
        with self._lock:
            self._step = None
            self._metrics.clear()
            self._not_finite = frozenset()
            self._warnings.clear()

    def measure(
        self,
        step: int | None,
        metrics: Mapping[str, float],
        not_finite: frozenset[str] = frozenset(),
    ) -> None:
        """Note the trainer's last step and values, which are stored every few seconds.

        A metric that is not a finite number any more has no last value.
        """
        with self._lock:
            self._is_news = True
            self._step = self._step if step is None else step
            # The newest names stay: an item of the ledger has room for some only.
            together = {**self._metrics, **metrics}
            self._not_finite = (self._not_finite - metrics.keys()) | not_finite
            for name in not_finite & together.keys():
                del together[name]
            for name in list(together)[: max(0, len(together) - MAX_NAMES)]:
                del together[name]
            self._metrics = together

    def note_saving(self, **known: Any) -> None:
        """Note fields of `Saving`; they change with every minute, so they wait for the beat."""
        with self._lock:
            self._saving = replace(self._saving or Saving(), **known)

    def stage(self, *, done_bytes: int, total_bytes: int) -> None:
        """Note how much of the inputs is there, which is stored every few seconds."""
        with self._lock:
            self._is_news = True
            self._staging = Staging(done_bytes=done_bytes, total_bytes=total_bytes)

    def serve(self, service: Service) -> None:
        """Note where the server listens, and whether it is ready."""
        with self._lock:
            self._service = service
        self._on_change()

    def note_environment(self, size_bytes: int) -> None:
        """Note the size of the environment; the disk of the next attempt has room for it."""
        with self._lock:
            self._environment_bytes = size_bytes

    def count_shards(self, shards: ShardProgress) -> None:
        """Note how many shards are done, which is stored every few seconds."""
        with self._lock:
            self._is_news = self._is_news or shards != self._shards
            self._shards = shards

    def report_gang(self, **known: Any) -> None:
        """Note fields of `GangReport`; the signs of life of the ranks wait for the next report."""
        with self._lock:
            self._gang = replace(self._gang or GangReport(), **known)
        if known.keys() - {"ranks", "files"}:
            self._on_change()

    @property
    def gang(self) -> GangReport:
        """What this node of a gang has reported so far."""
        with self._lock:
            return self._gang or GangReport()

    def warn(self, warning: str, *, about: str) -> bool:
        """Show a warning in the status; an empty text clears it.

        There is one warning about each subject. Returns whether it has changed.
        """
        with self._lock:
            if self._warnings.get(about, "") == warning:
                return False
            self._warnings[about] = warning
        self._on_change()
        return True

    @property
    def is_news(self) -> bool:
        """Whether there are measurements, or more inputs, since the last snapshot."""
        return self._is_news

    def snapshot(self) -> NodeProgress:
        """Return the progress as it is now, for the ledger."""
        with self._lock:
            self._is_news = False
            return NodeProgress(
                phase=self._phase,
                resume_step=self._resume_step,
                resume_save=self._resume_save,
                step=self._step,
                metrics=dict(self._metrics),
                not_finite=frozenset(sorted(self._not_finite)[:MAX_NAMES]),
                timeline=dict(self._timeline),
                saving=self._saving,
                staging=self._staging,
                service=self._service,
                environment_bytes=self._environment_bytes,
                shards=self._shards,
                gang=self._gang,
                warning="; ".join(filter(None, self._warnings.values())),
            )
