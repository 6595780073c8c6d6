"""The training session: a running program, the saving of its checkpoints, and their schedule."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from runctl.agent.instance.settings import Settings
from runctl.agent.ports import Blobs, Judge, Outputs
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.reporting.folder_shipper import FolderShipper
from runctl.agent.reporting.metrics import MetricsShipper
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.rungs import RungReports
from runctl.agent.runtime.ports import Contract, Runtime
from runctl.agent.saving.committer import Committer
from runctl.agent.saving.folder_watcher import FolderWatcher
from runctl.agent.saving.gang_files import GangFiles
from runctl.agent.saving.node_committer import NodeCommitter
from runctl.agent.saving.save_events import SaveEvents
from runctl.agent.saving.saver import CheckpointSaver
from runctl.agent.saving.schedule import CheckpointSchedule
from runctl.agent.signals.mailbox import Mailbox
from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.folder_state import FolderState
from runctl.checkpoint.layouts import Scope
from runctl.checkpoint.pinning import describe_missing_links
from runctl.model.agent_ledger import AgentLedger
from runctl.model.identity import TENSORBOARD
from runctl.model.kinds import EVALUATE, TRAIN
from runctl.model.metrics import Measured
from runctl.model.node import Node
from runctl.model.request import RunRequest
from runctl.policy.interval import Uptime

NO_HELPER = (
    "a checkpoint was requested, but the trainer does not use runctl's helper: it saves by "
    "itself, and what is on disk is uploaded"
)
FLUSH = timedelta(seconds=10)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SessionContext:
    """The context that all sessions of an attempt share.

    `peers` returns the other nodes of a gang that train, as the ledger has them.
    """

    settings: Settings
    request: RunRequest
    ledger: AgentLedger
    store: CheckpointStore
    blobs: Blobs
    outputs: Outputs
    progress: Progress
    mailbox: Mailbox
    judge: Judge
    peers: Callable[[], Sequence[Node]] = tuple

    @property
    def scope(self) -> Scope:
        """Which part of a checkpoint this node has."""
        if not self.request.gang.is_gang:
            return Scope.WHOLE
        return Scope.OTHER_NODE if self.settings.rank else Scope.FIRST_NODE


class TrainingSession:
    """A program from its start to its end, with everything that saves and reports for it."""

    def __init__(
        self,
        context: SessionContext,
        runtime: Runtime,
        contract: Contract,
        *,
        prepared: Prepared,
        uptime: Uptime,
        last_check: Callable[[], None],
    ) -> None:
        """Start the program. `last_check` is called just before, and may raise.

        Raises RequestError if the program cannot be started.
        """
        paths, request = context.settings.paths, context.request
        self._progress = context.progress
        self._reason = ""
        self._has_failed_request = False
        self._asks = context.scope is not Scope.OTHER_NODE
        self._save_events = SaveEvents(paths.saved)
        self._schedule = CheckpointSchedule(
            fixed=request.saving.checkpoint.fixed_interval, seen=uptime, began=time.monotonic()
        )
        # Before the program is started: what the folder holds until then is not new.
        self.watcher = FolderWatcher(
            folder=contract.checkpoint,
            pins=paths.state / "pins",
            spare=paths.runtime / "pins",
            save_events=self._save_events,
            progress=context.progress,
            scope=context.scope,
        )
        self.committer: Committer | NodeCommitter
        if context.scope is Scope.OTHER_NODE:
            self.committer = _make_node_committer(context, prepared, self.watcher.taken)
        else:
            self.committer = _make_committer(context, prepared, self._save_events)
        self.saver = CheckpointSaver(
            self.committer,
            self.watcher,
            save_events=self._save_events,
            schedule=self._schedule,
            progress=context.progress,
            mailbox=context.mailbox,
        )
        if prepared.restored is not None:
            self.committer.begin_from(prepared.restored, self.watcher.taken)
        self._metrics = MetricsShipper(
            context.blobs,
            paths.metrics,
            context.progress,
            node=context.settings.node,
            record_mlflow_run=lambda named: context.ledger.record_mlflow_run(
                context.settings.run_id, context.settings.attempt, named
            ),
            observe=_observer(context),
        )
        self._curves = FolderShipper(
            context.outputs, paths.tensorboard, TENSORBOARD, attempt=context.settings.attempt
        )
        if note := describe_missing_links(contract.checkpoint, paths.state / "pins"):
            logger.info("%s", note)
        last_check()
        self.grace = contract.grace
        self.program = runtime.start(contract)
        self.watcher.start(self.program)
        self.saver.start()
        self._metrics.start()
        self._curves.start()
        self._progress.mark("started")
        self._progress.enter(EVALUATE if request.kind == EVALUATE else TRAIN)
        logger.info("the trainer is running")

    def close(self) -> None:
        """Send the last metrics, and stop observing the program. A save may still be underway."""
        self._metrics.stop(within=FLUSH)
        self._curves.stop(within=FLUSH)
        self.program.close()

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether the trainer's helper has reported a SIGTERM."""
        return self._save_events.was_asked_to_stop

    def ask_for_checkpoint(self) -> None:
        """Ask the trainer's helper to save. A trainer without a helper is not disturbed.

        Of several nodes, only the one that commits asks: its ranks pass it on to the others.
        """
        if not self._asks:
            return
        if not self._save_events.has_helper:
            self._progress.warn(NO_HELPER, about="request")
        self._request_save()

    def check_schedule(self) -> None:
        """Ask for a save when it is due, and warn when checkpoints have stopped arriving."""
        if not self._asks:
            return
        now = time.monotonic()
        if self._save_events.has_helper:
            self._show_interval(now)
        if self._schedule.is_due(now):
            self._schedule.note_asked(now)
            self._request_save()
        elif self._has_failed_request:
            self._request_save()
        overdue = self._schedule.overdue(now)
        if self._progress.warn(overdue, about="overdue") and overdue:
            logger.warning("%s", overdue)

    def _show_interval(self, now: float) -> None:
        interval = self._schedule.interval(now)
        self._progress.note_saving(
            every=interval.every,
            is_fixed=self._schedule.is_fixed,
            cost=interval.cost,
            uptime=interval.uptime,
        )
        if interval.reason == self._reason:
            return
        is_first, self._reason = not self._reason, interval.reason
        # The reason changes with every minute of training; it is logged when a save is due.
        if is_first or self._schedule.is_due(now):
            logger.info(
                "a checkpoint every %.0f s: %s", interval.every.total_seconds(), interval.reason
            )

    def _request_save(self) -> None:
        problem = ""
        try:
            self.program.request_save()
        except OSError as exc:  # a full disk: training continues, and the next check asks again
            problem = f"the trainer cannot be asked to save: {exc}"
        self._has_failed_request = bool(problem)
        if self._progress.warn(problem, about="asking") and problem:
            logger.warning("%s", problem)


def _observer(context: SessionContext) -> Callable[[Measured], None]:
    """Return what looks at each line of metrics: the rungs of a trial that may be pruned."""
    trial = context.request.trial
    if not trial.may_be_pruned:
        return lambda _: None
    return RungReports(
        context.judge, trial, run_id=context.settings.run_id, mailbox=context.mailbox
    ).observe


def _make_committer(
    context: SessionContext, prepared: Prepared, save_events: SaveEvents
) -> Committer:
    return Committer(
        context.ledger,
        context.store,
        run_id=context.settings.run_id,
        attempt=context.settings.attempt,
        keep_last=context.request.saving.checkpoint.keep_last,
        may_be_interrupted=context.request.resources.market != "on-demand",
        run=prepared.run,
        saves=save_events,
        progress=context.progress,
        is_fenced=lambda: context.mailbox.is_fenced,
        gang=None if context.scope is Scope.WHOLE else _gang_files(context),
    )


def _gang_files(context: SessionContext) -> GangFiles:
    def lost() -> frozenset[int]:
        ending = context.mailbox.ending
        return frozenset() if ending is None else frozenset(ending.lost_ranks)

    return GangFiles(
        context.store, attempt=context.settings.attempt, peers=context.peers, lost=lost
    )


def _make_node_committer(
    context: SessionContext, prepared: Prepared, given: FolderState
) -> NodeCommitter:
    return NodeCommitter(
        context.store,
        run_id=context.settings.run_id,
        attempt=context.settings.attempt,
        rank=context.settings.rank,
        progress=context.progress,
        is_fenced=lambda: context.mailbox.is_fenced,
        given=given,
        run=prepared.run,
    )
