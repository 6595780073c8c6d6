"""The rungs of a trial: at each of them, the agent asks whether the trial goes on."""

import logging
import threading
from datetime import datetime, timezone

from runctl.agent.ports import Judge
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.model.errors import RunctlError
from runctl.model.metrics import Measured
from runctl.model.trial_options import TrialOptions
from runctl.policy.halving import rung_at

logger = logging.getLogger(__name__)


class RungReports:
    """Asks at each rung, in the background, and ends the attempt of a trial that does not go on.

    The trainer is not delayed, and goes on if no answer arrives.
    """

    def __init__(self, judge: Judge, trial: TrialOptions, *, run_id: str, mailbox: Mailbox) -> None:
        self._judge = judge
        self._trial = trial
        self._run_id = run_id
        self._mailbox = mailbox
        self._asked = 0
        self._has_warned = False

    def observe(self, measured: Measured) -> None:
        """Take a line of metrics, and ask if it is the first that has reached a rung."""
        trial = self._trial
        value = measured.values.get(trial.metric)
        if value is None:
            return
        if measured.step is None:
            if not self._has_warned:
                logger.warning(
                    "lines with %s have no step: the trial cannot be pruned", trial.metric
                )
            self._has_warned = True
            return
        rung = rung_at(measured.step, first=trial.first_rung, factor=trial.reduction_factor)
        if rung is None or rung <= self._asked:
            return
        self._asked = rung
        threading.Thread(target=self._ask, args=(rung, value), name="rung", daemon=True).start()

    def _ask(self, rung: int, value: float) -> None:
        try:
            goes_on = self._judge.goes_on(self._trial.judge, self._run_id, rung=rung, value=value)
        except RunctlError as exc:
            logger.warning("no answer at step %d, so the trial goes on: %s", rung, exc)
            return
        logger.info("%s = %g at step %d: %s", self._trial.metric, value, rung,
                    "the trial goes on" if goes_on else "the trial is pruned")  # fmt: skip
        if not goes_on:
            self._mailbox.end(
                StopRequest(
                    cause=StopCause.PRUNED,
                    reason=f"pruned at step {rung}: {self._trial.metric} is {value:g}",
                    detected=datetime.now(timezone.utc),
                )
            )
