"""The evaluation of every checkpoint of a run: one program after the other, on one machine."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

from runctl.agent.fallback import Ended
from runctl.agent.prepare.following import Following
from runctl.agent.prepare.preparation import Preparation
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.result_metrics import find_metrics
from runctl.agent.signals.waiting import CancellableWait
from runctl.model.errors import DamagedCheckpointError, FencedError
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.result_metrics import FILE, BadMetricsError
from runctl.model.subject import Subject

logger = logging.getLogger(__name__)


class Evaluations:
    """Runs the program for each checkpoint that `following` finds.

    A program that fails ends the run: continued, it begins with the same checkpoint.
    """

    def __init__(
        self,
        following: Following,
        preparation: Preparation,
        *,
        progress: Progress,
        wait: CancellableWait,
        run_program: Callable[[Prepared], Ended | None],
    ) -> None:
        self._following = following
        self._preparation = preparation
        self._progress = progress
        self._wait = wait
        self._run_program = run_program

    def run(self, prepared: Prepared) -> Outcome | None:
        """Evaluate until the other run has ended; return None if a later attempt owns the run."""
        try:
            self._wait.run_in_background(self._following.begin)
            while True:
                self._progress.enter("wait")
                subject = self._wait.run_in_background(self._following.next)
                if subject is None:
                    return self._done()
                ended = self._evaluate(prepared, subject)
                if ended is None or ended.kind is not OutcomeKind.COMPLETED:
                    return ended
        except FencedError:
            return None

    def _evaluate(self, prepared: Prepared, subject: Subject) -> Outcome | None:
        """Evaluate one checkpoint; return how its program ended."""
        try:
            given = self._wait.run_in_background(
                lambda: self._preparation.begin_evaluation(prepared, subject)
            )
        except DamagedCheckpointError as exc:
            logger.warning("%s cannot be restored: %s", subject.name, exc)
            self._wait.run_in_background(lambda: self._following.skip(subject))
            return Outcome(kind=OutcomeKind.COMPLETED)
        self._progress.begin_again()
        ended = self._run_program(given)
        if ended is None:
            return None
        ended.close()
        outcome = ended.outcome
        if outcome.kind is OutcomeKind.FAILED:
            return replace(outcome, reason=f"the evaluation of {subject.name}: {outcome.reason}")
        if outcome.kind is OutcomeKind.COMPLETED:
            self._record(given, subject)
        return outcome

    def _record(self, given: Prepared, subject: Subject) -> None:
        folder = given.outputs
        assert folder is not None
        metrics = {}
        try:
            metrics = find_metrics(folder)
        except BadMetricsError as exc:
            warning = f"{FILE} of {subject.name} is not part of the result: {exc}"
            self._progress.warn(warning, about="result")
            logger.warning("%s", warning)
        numbers = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        self._progress.measure(subject.step, numbers)
        # In this thread: once begun, it is done before the report of an interruption.
        self._following.record(subject, metrics)
        # It is uploaded: the next one does not upload it again.
        shutil.rmtree(folder, ignore_errors=True)

    def _done(self) -> Outcome:
        count = self._following.evaluated
        if not count:
            return Outcome(
                kind=OutcomeKind.FAILED,
                reason="the run that it follows has ended without a checkpoint to evaluate",
            )
        plural = "" if count == 1 else "s"
        return Outcome(
            kind=OutcomeKind.COMPLETED,
            reason=f"{count} checkpoint{plural} evaluated",
            exit_code=0,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
