"""Rungs: the agent asks once at each, and only a clear answer ends a trial."""

from __future__ import annotations

import queue

import pytest

from runctl.agent.program_outcome import outcome_of_stop
from runctl.agent.reporting.rungs import RungReports
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.model.errors import RefusedError, RunctlError, TransientError
from runctl.model.metrics import Measured, read_metrics
from runctl.model.outcome import OutcomeKind
from runctl.model.trial_options import TrialOptions
from tests.agent.machine import wait_until
from tests.control.fakes import START

TRIAL = TrialOptions(
    number=7, metric="loss", judge="runctl-judge_trial", first_rung=2, reduction_factor=3
)


class Judge:
    """Answers as a test says, and keeps the questions."""

    def __init__(self, answer: bool | RunctlError = True) -> None:
        self.answer = answer
        self.asked: queue.Queue[tuple[str, str, int, float]] = queue.Queue()

    def goes_on(self, function: str, run_id: str, *, rung: int, value: float) -> bool:
        self.asked.put((function, run_id, rung, value))
        if isinstance(self.answer, RunctlError):
            raise self.answer
        return self.answer


def reports(judge: Judge, mailbox: Mailbox) -> RungReports:
    return RungReports(judge, TRIAL, run_id="search-0007", mailbox=mailbox)


def measured(step: int | None, loss: float) -> Measured:
    return Measured(step=step, values={"loss": loss, "accuracy": 0.5})


def test_it_asks_at_the_first_line_that_reaches_a_rung() -> None:
    judge, mailbox = Judge(), Mailbox()
    rungs = reports(judge, mailbox)
    for step in range(1, 20):
        rungs.observe(measured(step, 1 / step))
    asked = sorted(judge.asked.get(timeout=30)[2:] for _ in range(3))
    assert asked == [(2, 1 / 2), (6, 1 / 6), (18, 1 / 18)]
    assert judge.asked.empty()
    assert mailbox.ending is None


def test_after_a_resume_only_the_rung_that_was_reached_is_asked_again() -> None:
    judge = Judge()
    rungs = reports(judge, Mailbox())
    rungs.observe(measured(10, 0.1))
    assert judge.asked.get(timeout=30) == ("runctl-judge_trial", "search-0007", 6, 0.1)
    rungs.observe(measured(11, 0.1))
    assert judge.asked.empty()


def test_a_trial_that_does_not_go_on_saves_and_is_completed() -> None:
    judge, mailbox = Judge(answer=False), Mailbox()
    reports(judge, mailbox).observe(measured(2, 0.75))
    wait_until(lambda: mailbox.ending is not None)
    stop = mailbox.ending
    assert stop is not None
    assert (stop.cause, stop.reason) == (StopCause.PRUNED, "pruned at step 2: loss is 0.75")
    outcome = outcome_of_stop(stop, exit_code=-15, step=2)
    assert outcome is not None
    assert (outcome.kind, outcome.exit_code, outcome.reason) == (
        OutcomeKind.COMPLETED, -15, "pruned at step 2: loss is 0.75",
    )  # fmt: skip


@pytest.mark.parametrize("error", [TransientError("busy"), RefusedError("not allowed")])
def test_without_an_answer_the_trial_goes_on(
    error: RunctlError, caplog: pytest.LogCaptureFixture
) -> None:
    judge, mailbox = Judge(error), Mailbox()
    reports(judge, mailbox).observe(measured(2, 0.75))
    judge.asked.get(timeout=30)
    wait_until(lambda: "no answer at step 2, so the trial goes on" in caplog.text)
    assert mailbox.ending is None


def test_lines_without_a_step_or_a_finite_value_ask_nothing() -> None:
    judge = Judge()
    rungs = reports(judge, Mailbox())
    rungs.observe(measured(None, 0.5))
    for line in ('{"step": 5, "loss": NaN}', '{"step": 5, "accuracy": 1}'):
        read = read_metrics(line)
        assert read is not None
        rungs.observe(read)
    assert judge.asked.empty()


def test_a_notice_does_not_take_precedence_over_pruning() -> None:
    mailbox = Mailbox()
    pruned = StopRequest(cause=StopCause.PRUNED, reason="pruned", detected=START)
    notice = StopRequest(cause=StopCause.NOTICE, reason="notice", detected=START, deadline=START)
    assert mailbox.end(notice)
    assert mailbox.end(pruned)
    assert mailbox.ending is not None
    assert mailbox.ending.cause is StopCause.PRUNED
    assert mailbox.ending.deadline is not None
