"""The final report of an attempt: its last instants, its outcome, and its outputs."""

import contextlib
import logging
import time
from datetime import timedelta

from runctl.agent.instance.settings import Settings
from runctl.agent.ports import Outputs, Workflow
from runctl.agent.reporting.heartbeat import Heartbeat
from runctl.agent.reporting.outputs import upload_outputs
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.report import report
from runctl.agent.reporting.result_metrics import record_metrics
from runctl.agent.reporting.task_token import TaskToken
from runctl.agent.signals.mailbox import Mailbox, StopCause
from runctl.fault_points import reach
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import RefusedError, TransientError
from runctl.model.outcome import Outcome, OutcomeKind

REPORT_WITHIN = timedelta(minutes=5)
RETRY_SECONDS = 2.0
TOKEN_POLL_SECONDS = 0.2
# After these ends another attempt follows.
_FOLLOWED = frozenset({OutcomeKind.INTERRUPTED, OutcomeKind.LOST})

logger = logging.getLogger(__name__)


class FinalReport:
    """Reports how the attempt ended, once."""

    def __init__(
        self,
        workflow: Workflow,
        ledger: AgentLedger,
        outputs: Outputs,
        settings: Settings,
        *,
        token: TaskToken,
        heartbeat: Heartbeat,
        progress: Progress,
        mailbox: Mailbox,
    ) -> None:
        self._workflow = workflow
        self._ledger = ledger
        self._outputs = [outputs]
        self._settings = settings
        self._token = token
        self._heartbeat = heartbeat
        self._progress = progress
        self._mailbox = mailbox

    def copy_outputs_to(self, outputs: Outputs) -> None:
        """Upload the outputs to another place as well."""
        self._outputs.append(outputs)

    def was_sent(self) -> bool:
        """Whether an earlier agent on this instance has reported already."""
        try:
            reported = self._settings.paths.reported.read_text()
        except OSError:
            return False
        # On a warm instance the marker may be that of the attempt before.
        return reported in {"", self._mark}

    @property
    def _prefix(self) -> str:
        """What the names of outputs begin with: those of another node than the first are apart."""
        rank = self._settings.rank
        return f"node-{rank:03}/" if rank else ""

    @property
    def _mark(self) -> str:
        return f"{self._settings.run_id}/{self._settings.attempt}"

    def send(self, outcome: Outcome) -> None:
        """Store the last instants, then report: after that the fence may move at any moment."""
        self._progress.enter("done")
        self._await_token(outcome)
        if self._token.has_arrived():
            # An attempt that is followed by another one has no result yet.
            if outcome.kind not in _FOLLOWED:
                self._record_metrics()
            self._heartbeat.store_progress()
        if report(self._workflow, self._token, outcome, within=self._time_left()):
            reach("drain.reported")
            with contextlib.suppress(OSError):
                self._settings.paths.reported.write_text(self._mark)
        self.upload_if_cut_short(outcome)

    def upload_if_cut_short(self, outcome: Outcome) -> None:
        """Upload the outputs so far while the instance lives; the checkpoint is safe already."""
        ending = self._mailbox.ending
        is_pruned = ending is not None and ending.cause is StopCause.PRUNED
        is_cut_short = is_pruned or outcome.kind in _FOLLOWED | {OutcomeKind.STOPPED}
        if is_cut_short and self._token.has_arrived():
            self.upload_outputs(time.monotonic() + self._time_left().total_seconds())

    def _time_left(self) -> timedelta:
        """Return the time that a report, or the uploads after it, may take."""
        ending = self._mailbox.ending
        left = None if ending is None else ending.time_left()
        return REPORT_WITHIN if left is None else min(REPORT_WITHIN, max(left, timedelta(0)))

    def _record_metrics(self) -> None:
        settings = self._settings
        warning = record_metrics(
            settings.paths.output,
            lambda metrics: self._ledger.record_metrics(settings.run_id, settings.attempt, metrics),
        )
        if self._progress.warn(warning, about="result") and warning:
            logger.warning("%s", warning)

    def upload_outputs(self, until: float) -> str:
        """Upload the outputs; return what went wrong, or an empty text."""
        problems = (self._upload_to(outputs, until) for outputs in self._outputs)
        return next(filter(None, problems), "")

    def _upload_to(self, outputs: Outputs, until: float) -> str:
        while True:
            try:
                upload_outputs(
                    outputs,
                    self._settings.paths.output,
                    attempt=self._settings.attempt,
                    prefix=self._prefix,
                    until=until,
                )
            except TransientError as exc:
                logger.warning("%s", exc)
                is_refused = isinstance(exc.__cause__, RefusedError)
                if is_refused or time.monotonic() + RETRY_SECONDS > until or self._mailbox.ending:
                    return str(exc)
                time.sleep(RETRY_SECONDS)
            else:
                return ""

    def _await_token(self, outcome: Outcome) -> None:
        """Wait for the token while the instance lives: an early end is reported, too."""
        while not self._token.has_arrived() and outcome.kind is not OutcomeKind.STOPPED:
            ending = self._mailbox.ending
            if ending is not None:
                left = ending.time_left()
                over = left is None or left <= timedelta(0)
                # After a stop or without the fence no token comes any more.
                if over or ending.cause in {StopCause.STOP, StopCause.FENCED}:
                    return
            time.sleep(TOKEN_POLL_SECONDS)
