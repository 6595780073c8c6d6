"""The heartbeat of a node of a gang: every node reports to the others, and the lead also beats."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from runctl.agent.ports import Workflow
from runctl.agent.reporting.heartbeat import BEAT, BEAT_AFTER_FAILURE, Heartbeat, touch
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.task_token import TaskToken
from runctl.agent.signals.mailbox import Mailbox
from runctl.model.agent_ledger import AgentLedger
from runctl.model.node import NodeId

# The others take a node for lost when they have missed three of these.
REPORT = timedelta(seconds=3)
LEAD_CHECK = timedelta(seconds=1)


logger = logging.getLogger(__name__)


class NodeHeartbeat(Heartbeat):
    """Stores the progress at short intervals from the start on, and beats only as the lead."""

    def __init__(
        self,
        ledger: AgentLedger,
        workflow: Workflow,
        token: TaskToken,
        *,
        node: NodeId,
        lease: Path,
        progress: Progress,
        mailbox: Mailbox,
        is_lead: Callable[[], bool],
    ) -> None:
        super().__init__(
            ledger, workflow, token, node=node, lease=lease, progress=progress, mailbox=mailbox
        )
        self._is_lead = is_lead
        self._threads.append(threading.Thread(target=self._report, name="node", daemon=True))

    def store_progress(self) -> bool:
        """Store the progress in the ledger now; return whether it is."""
        is_stored = super().store_progress()
        if is_stored:
            # For a node that is not the lead this is the only sign that it still counts.
            touch(self._lease)
        return is_stored

    def _report(self) -> None:
        """Store the progress at each interval, and a change of it immediately."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.store_progress()
            except Exception:  # whatever it is, silence would be taken for a lost node
                logger.exception("the progress cannot be stored")
            self._wake.wait(REPORT.total_seconds())

    def _run_until_stopped(self) -> None:
        if not self._token.has_arrived():
            self._token.wait(stop=self._stop, on_newest=self._on_newest)
        due = float("-inf")
        while not self._stop.is_set():
            if self._is_lead() and time.monotonic() >= due:
                wait = BEAT if self._beat() else BEAT_AFTER_FAILURE
                due = time.monotonic() + wait.total_seconds()
            self._stop.wait(LEAD_CHECK.total_seconds())


def make_heartbeat(
    ledger: AgentLedger,
    workflow: Workflow,
    token: TaskToken,
    *,
    node: NodeId,
    lease: Path,
    progress: Progress,
    mailbox: Mailbox,
    is_lead: Callable[[], bool] | None,
) -> Heartbeat:
    """Return the heartbeat of a node; `is_lead` is None for the only one of its attempt."""
    if is_lead is None:
        return Heartbeat(
            ledger, workflow, token, node=node, lease=lease, progress=progress, mailbox=mailbox
        )
    return NodeHeartbeat(
        ledger,
        workflow,
        token,
        node=node,
        lease=lease,
        progress=progress,
        mailbox=mailbox,
        is_lead=is_lead,
    )
