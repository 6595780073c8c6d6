"""Following a run: each checkpoint that it commits is found, kept and evaluated once, in order."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from runctl.agent.instance.settings import Settings
from runctl.agent.ports import Blobs, Outputs
from runctl.agent.reporting.progress import Progress
from runctl.agent.signals.waiting import CancellableWait
from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.services import AwsServices
from runctl.beneath.opened_file import OpenedFile
from runctl.checkpoint.candidates import keys_before
from runctl.fault_points import reach
from runctl.model import identity
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import DamagedCheckpointError, FencedError, NotFoundError
from runctl.model.evaluation_history import (
    FILE,
    Evaluated,
    history_text,
    read_history,
)
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.model.subject import Subject, subject_of

# One consistent read of an item each time: the training does not notice it.
FIRST_PAUSE = timedelta(seconds=1)
MAX_PAUSE = timedelta(seconds=15)

logger = logging.getLogger(__name__)


def follow(
    services: AwsServices,
    settings: Settings,
    request: RunRequest,
    progress: Progress,
    wait: CancellableWait,
) -> "Following":
    """Return the checkpoints of the run that the request of an evaluation names."""
    reference = request.evaluate.reference
    return Following(
        services.ledger,
        services.blobs,
        services.outputs(settings.run_id),
        services.checkpoints,
        run_id=settings.run_id,
        attempt=settings.attempt,
        followed="" if reference is None else reference.run_id,
        state=settings.paths.state,
        progress=progress,
        wait=wait,
    )


class Following:
    """The checkpoints of the run `followed`, in the order of their saves.

    What was evaluated is in the history, an output of this run, before the ledger counts it: after
    an interruption, the next attempt evaluates none of those again. A checkpoint is pinned as soon
    as it is seen, so that the retention of the other run leaves it alone until it is evaluated.
    """

    def __init__(
        self,
        ledger: AgentLedger,
        blobs: Blobs,
        outputs: Outputs,
        checkpoints: Callable[[str], CheckpointStore],
        *,
        run_id: str,
        attempt: int,
        followed: str,
        state: Path,
        progress: Progress,
        wait: CancellableWait,
    ) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._outputs = outputs
        self._store = checkpoints(followed)
        self._run_id = run_id
        self._attempt = attempt
        self._followed = followed
        self._file = state / FILE
        self._progress = progress
        self._wait = wait
        self._history: list[Evaluated] = []
        self._newest = ""
        self._waiting: list[Subject] = []
        self._missed: list[int] = []

    @property
    def evaluated(self) -> int:
        """The number of checkpoints that were evaluated."""
        return len(self._history)

    def begin(self) -> None:
        """Read what earlier attempts have evaluated; FencedError if a later one owns the run."""
        self._history = self._wait.retry(self._read)
        if self._history:
            logger.info("%d checkpoints are evaluated already", len(self._history))
        self._wait.retry(lambda: self._record(self._history[-1:]))

    def next(self) -> Subject | None:
        """Wait for a checkpoint that was not evaluated; None if the run has ended without more."""
        pause = FIRST_PAUSE
        while True:
            is_over = self._wait.retry(self._poll)
            if self._waiting:
                return self._waiting[0]
            if is_over:
                return None
            self._wait.pause(pause)
            pause = min(pause * 1.5, MAX_PAUSE)

    def _poll(self) -> bool:
        """Add what the run has committed since; return whether it has ended."""
        run = self._ledger.find_run(self._followed)
        if run is None:
            return True
        if run.newest is not None and run.newest != self._newest:
            self._add(run)
        return run.ended is not None

    def record(self, subject: Subject, metrics: Mapping[str, Any]) -> None:
        """Record that a checkpoint was evaluated; FencedError if a later attempt owns the run."""
        evaluated = Evaluated(
            save=subject.save,
            step=subject.step,
            key=subject.key,
            at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            metrics=metrics,
        )
        self._history.append(evaluated)
        self._file.write_bytes(history_text(self._history))
        self._wait.retry(self._store_history)
        reach("evaluation.history_stored")
        self._wait.retry(lambda: self._record([evaluated]))
        self._drop(subject)
        logger.info("evaluated %s of %s", subject.name, self._followed)

    def skip(self, subject: Subject) -> None:
        """Leave out a checkpoint that is gone or damaged."""
        self._drop(subject)
        self._note_missed(subject.save)

    def _drop(self, subject: Subject) -> None:
        self._waiting = [other for other in self._waiting if other != subject]
        self._wait.retry(
            lambda: self._ledger.remove_pins(self._followed, by=self._run_id, keys=[subject.key])
        )

    def _read(self) -> list[Evaluated]:
        try:
            with self._blobs.open(f"{identity.output_prefix(self._run_id)}{FILE}") as blob:
                return read_history(b"".join(blob.chunks))
        except NotFoundError:
            return []

    def _store_history(self) -> None:
        with OpenedFile.at(self._file) as file:
            is_stored = self._outputs.put(FILE, file, attempt=self._attempt)
        if not is_stored:
            raise FencedError(f"a later attempt has stored the evaluations of {self._run_id}")

    def _record(self, evaluated: list[Evaluated]) -> None:
        """Count the last one in the ledger; without one, record that this attempt follows."""
        last = evaluated[-1] if evaluated else Evaluated(save=0)
        metrics = dict(last.metrics)
        if metrics and last.step is not None:
            metrics.setdefault("step", last.step)
        self._ledger.record_evaluated(self._run_id, self._attempt, save=last.save, metrics=metrics)

    def _add(self, run: Run) -> None:
        """Pin the checkpoints that were committed since the last poll, the oldest first."""
        newest = run.newest or ""
        known = [each.save for each in self._history] + [each.save for each in self._waiting]
        done = max([0, *known, *self._missed])
        try:
            before = keys_before(self._store.get_manifest(newest))
        except DamagedCheckpointError as exc:
            logger.warning("the newest checkpoint of %s cannot be read: %s", run.run_id, exc)
            before = []
        for key in sorted({newest, *before}, key=identity.save_of):
            if identity.save_of(key) > done:
                self._keep(key)
        self._newest = newest

    def _keep(self, key: str) -> None:
        self._ledger.pin_checkpoint(self._followed, key, by=self._run_id)
        try:
            self._waiting.append(subject_of(key, self._store.get_manifest(key)))
        except DamagedCheckpointError as exc:
            logger.warning("%s cannot be evaluated: %s", key, exc)
            self._ledger.remove_pins(self._followed, by=self._run_id, keys=[key])
            self._note_missed(identity.save_of(key))

    def _note_missed(self, save: int) -> None:
        self._missed.append(save)
        saves = ", ".join(map(str, self._missed[:10]))
        self._progress.warn(
            f"the saves {saves} of {self._followed} were removed or damaged before they could be "
            "evaluated; raise its checkpoint.keep_last",
            about="missed",
        )
