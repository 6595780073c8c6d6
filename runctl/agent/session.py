"""The training session: the trainer, the saving of its checkpoints, and their schedule."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.preparation import Prepared
from runctl.agent.reporting.metrics import MetricsShipper
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.trainer import Contract, Trainer, trainer_command, trainer_environment
from runctl.agent.runtime.training_path import lay_out
from runctl.agent.saving.committer import Committer
from runctl.agent.saving.folder_watcher import FolderWatcher
from runctl.agent.saving.save_events import SaveEvents
from runctl.agent.saving.saver import CheckpointSaver
from runctl.agent.saving.schedule import CheckpointSchedule
from runctl.agent.signals.mailbox import Mailbox
from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.pinning import describe_missing_links
from runctl.model.agent_ledger import AgentLedger
from runctl.model.request import RunRequest
from runctl.policy.interval import Uptime

NO_HELPER = (
    "a checkpoint was asked for; a trainer without runctl's helper saves when it does, "
    "and what is on disk is uploaded"
)

logger = logging.getLogger(__name__)


class TrainingSession:
    """Everything that works between the trainer's start and its end."""

    def __init__(
        self,
        ledger: AgentLedger,
        s3: Any,
        store: CheckpointStore,
        settings: Settings,
        *,
        request: RunRequest,
        prepared: Prepared,
        seen: Uptime,
        progress: Progress,
        mailbox: Mailbox,
        env: Mapping[str, str],
        credentials: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._request = request
        self._prepared = prepared
        self._progress = progress
        self._mailbox = mailbox
        self._env = env
        self._credentials = credentials
        paths = settings.paths
        self._checkpoint_request = paths.checkpoint_request
        self._reason = ""
        self._has_unasked = False
        self._save_events = SaveEvents(paths.saved)
        self._schedule = CheckpointSchedule(
            fixed=request.saving.checkpoint.fixed_interval, seen=seen, began=time.monotonic()
        )
        self.committer = Committer(
            ledger,
            store,
            run_id=settings.run_id,
            attempt=settings.attempt,
            keep_last=request.saving.checkpoint.keep_last,
            may_be_interrupted=request.resources.market != "on-demand",
            run=prepared.run,
            saves=self._save_events,
            progress=progress,
            is_fenced=lambda: mailbox.is_fenced,
        )
        running: list[Trainer] = []
        self._running = running
        self.watcher = FolderWatcher(
            folder=prepared.checkpoint,
            pins=paths.state / "pins",
            spare=paths.runtime / "pins",
            save_events=self._save_events,
            family=lambda: running[0].family() if running else [],
            leader=lambda: running[0].pid if running else 0,
            progress=progress,
        )
        self.saver = CheckpointSaver(
            self.committer,
            self.watcher,
            save_events=self._save_events,
            schedule=self._schedule,
            progress=progress,
            mailbox=mailbox,
        )
        if prepared.restored is not None:
            self.committer.begin_from(prepared.restored, self.watcher.taken)
        self.metrics = MetricsShipper(
            s3,
            paths.metrics,
            progress,
            bucket=settings.bucket,
            run_id=settings.run_id,
            attempt=settings.attempt,
        )

    def start(self, *, last_check: Callable[[], None]) -> Trainer:
        """Start the trainer and what watches it; `last_check` may still raise."""
        paths, prepared = self._settings.paths, self._prepared
        restored = prepared.restored
        contract = Contract(
            run_id=self._settings.run_id,
            attempt=self._settings.attempt,
            resume_step=None if restored is None else restored.manifest.step,
            checkpoint=prepared.checkpoint,
            partial=prepared.partial,
            inputs=paths.inputs,
            outputs=paths.output,
            metrics=paths.metrics,
            checkpoint_request=self._checkpoint_request,
            saved=paths.saved,
        )
        environ = trainer_environment(
            os.environ,
            env=self._env,
            contract=contract,
            environment=prepared.environment,
            project=paths.project,
            training_path=lay_out(paths.state / "training-path"),
            credentials=self._credentials,
        )
        command = trainer_command(
            self._request,
            prepared.script,
            project=paths.project,
            environment=prepared.environment,
            variables=contract.as_environment(),
            resumes=restored is not None,
        )
        if note := describe_missing_links(prepared.checkpoint, paths.state / "pins"):
            logger.info("%s", note)
        last_check()
        trainer = Trainer(
            command,
            environ=environ,
            cwd=paths.project,
            output=paths.trainer_output,
            errors=paths.trainer_errors,
            on_exit=self._mailbox.wake,
        )
        self._running.append(trainer)
        self.watcher.start()
        self.saver.start()
        self.metrics.start()
        self._progress.mark("started")
        self._progress.enter("train")
        logger.info("the trainer is running")
        return trainer

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether the trainer's helper has reported a SIGTERM."""
        return self._save_events.was_asked_to_stop

    def ask_for_checkpoint(self) -> None:
        """Ask the trainer's helper to save; a trainer without it goes on undisturbed."""
        if not self._save_events.has_helper:
            self._progress.warn(NO_HELPER, about="request")
        self._write_request()

    def check_schedule(self) -> None:
        """Ask for a save when it is due, and warn when checkpoints have stopped arriving."""
        now = time.monotonic()
        interval = self._schedule.interval(now)
        if self._save_events.has_helper:
            self._progress.note_saving(
                every=interval.every,
                is_fixed=self._schedule.is_fixed,
                cost=interval.cost,
                uptime=interval.uptime,
            )
        if self._save_events.has_helper and interval.reason != self._reason:
            first, self._reason = not self._reason, interval.reason
            # The reason changes with every minute of training; the log has it when it matters.
            if first or self._schedule.is_due(now):
                logger.info(
                    "a checkpoint every %.0f s: %s", interval.every.total_seconds(), interval.reason
                )
        if self._schedule.is_due(now):
            self._schedule.note_asked(now)
            self._write_request()
        elif self._has_unasked:
            self._write_request()
        overdue = self._schedule.overdue(now)
        if self._progress.warn(overdue, about="overdue") and overdue:
            logger.warning("%s", overdue)

    def _write_request(self) -> None:
        document = json.dumps({"at": datetime.now(timezone.utc).isoformat()})
        problem = ""
        try:
            self._checkpoint_request.write_text(document)
        except OSError as exc:  # a full disk: training goes on, and the next check asks again
            problem = f"the trainer cannot be asked to save: {exc}"
        self._has_unasked = bool(problem)
        if self._progress.warn(problem, about="asking") and problem:
            logger.warning("%s", problem)
