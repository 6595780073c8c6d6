"""The parts of an attempt that the sessions of every kind of run use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance.disk import FULL
from runctl.agent.instance.settings import Settings
from runctl.agent.ports import Judge
from runctl.agent.prepare.preparation import Preparation
from runctl.agent.program_outcome import failed_outcome, outcome_of_stop
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Runtime
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.waiting import CancellableWait
from runctl.aws.services import AwsServices
from runctl.model.outcome import Outcome


class OutcomeMaker:
    """Makes the outcomes of an attempt that ends without an exit of its program.

    `step` is the step that is committed so far, None where that is not known.
    """

    def __init__(self, mailbox: Mailbox, mask: Callable[[str], str]) -> None:
        self._mailbox = mailbox
        self._mask = mask
        self.step: int | None = None

    def stopped(self, *, exit_code: int | None = None) -> Outcome | None:
        """Return the outcome of a requested stop, None if a later attempt owns the run."""
        return outcome_of_stop(self._mailbox.ending, exit_code=exit_code, step=self.step)

    def failed(self, reason: str) -> Outcome:
        """Return the outcome of an attempt that cannot go on."""
        # Preparation reports it in its own words, and pip, uv and the engine in the system's.
        is_disk_full = FULL in reason
        return failed_outcome(reason, mask=self._mask, step=self.step, is_disk_full=is_disk_full)


@dataclass(frozen=True, kw_only=True)
class AttemptParts:
    """The parts of an attempt that a session uses.

    `follow` ships the lines of a file to the log of the run, and `mask` hides secrets in a text.
    `may_report` says whether an outcome could be reported, since the token is there.
    `store_progress` stores the progress in the ledger at once, and `upload_outputs` the outputs
    until a monotonic instant; it returns what went wrong.
    """

    settings: Settings
    services: AwsServices
    preparation: Preparation
    runtime: Runtime
    judge: Judge
    mailbox: Mailbox
    wait: CancellableWait
    progress: Progress
    outcomes: OutcomeMaker
    mask: Callable[[str], str]
    follow: Callable[[Path], None]
    may_report: Callable[[], bool]
    store_progress: Callable[[], object]
    upload_outputs: Callable[[float], str]
