"""The outcome of an attempt, derived from the end of its program."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from runctl.agent.program_outcome import EndedProgram, outcome_of_exit, outcome_of_stop
from runctl.agent.runtime.ports import HiddenFailure, ProgramExit
from runctl.agent.signals.mailbox import StopCause, StopRequest
from runctl.model.outcome import Outcome, OutcomeKind

PIPE = HiddenFailure(exit_code=3, description="train.py exited with 3")


def stop(cause: StopCause) -> StopRequest:
    return StopRequest(cause=cause, reason=cause.name, detected=datetime.now(timezone.utc))


def outcome(code: int, **known: Any) -> Outcome:
    """Return the outcome of a program that exited with `code`."""
    names = ("rank_code", "stopped_by", "hidden_failure", "memory_problem", "last_words")
    of_exit = {name: known.pop(name) for name in names if name in known}
    ended = EndedProgram(
        exit=ProgramExit(code=code, **{"stopped_by": "", **of_exit}), step=7, **known
    )
    found = outcome_of_exit(ended, mask=lambda text: text.replace("secret", "***"))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("code", "known", "kind"),
    [
        (0, {}, "completed"),
        (1, {}, "failed"),
        (-15, {}, "failed"),
        (0, {"hidden_failure": PIPE}, "failed"),
        (0, {"background": "42 (train.py)"}, "failed"),
        (0, {"torn": frozenset({"a"})}, "failed"),
        (0, {"is_saved": False}, "failed"),
        (0, {"outputs_problem": "no"}, "failed"),
        # Interrupted, since something else has ended the program.
        (0, {"stopped_by": "somebody"}, "interrupted"),
        (1, {"stopped_by": "somebody"}, "interrupted"),
        (0, {"stopped_by": None, "helper_saw_sigterm": True}, "interrupted"),
        (143, {"stopped_by": None, "helper_saw_sigterm": True}, "interrupted"),
        (1, {"stopped_by": None, "helper_saw_sigterm": True}, "failed"),
        (0, {"helper_saw_sigterm": True}, "completed"),
        # A stop that was requested while the program ended by itself.
        (-15, {"stop": stop(StopCause.NOTICE)}, "interrupted"),
        (137, {"stop": stop(StopCause.STOP)}, "stopped"),
        (0, {"stop": stop(StopCause.NOTICE)}, "completed"),
        (0, {"stop": stop(StopCause.SHUTDOWN)}, "interrupted"),
        (1, {"stop": stop(StopCause.SHUTDOWN)}, "interrupted"),
        (1, {"stop": stop(StopCause.NOTICE)}, "failed"),
        (0, {"stop": stop(StopCause.NOTICE), "torn": frozenset({"a"})}, "interrupted"),
        (0, {"stop": stop(StopCause.NOTICE), "background": "42 (train.py)"}, "failed"),
    ],
)
def test_outcome_follows_from_the_exit_and_from_who_requested_it(
    code: int, known: dict[str, Any], kind: str
) -> None:
    found = outcome(code, **known)
    assert (found.kind.value, found.step) == (kind, 7)


@pytest.mark.parametrize(
    ("code", "known", "reason"),
    [
        (2, {}, "exit code 2"),
        (-11, {}, "ended by signal 11"),
        (-9, {}, "ended by signal 9 (out of memory?)"),
        (-9, {"memory_problem": "limit 1 GiB"}, "ended by signal 9 (limit 1 GiB)"),
        (1, {"rank_code": 75, "last_words": "rank 3: gave up"}, "exit code 75: rank 3: gave up"),
        (1, {"rank_code": -9}, "ended by signal 9 (out of memory?)"),
        (
            1,
            {"hints": ("the disk is full", "a.txt is missing"), "last_words": "OSError"},
            "exit code 1 (the disk is full) (a.txt is missing): OSError",
        ),
        (0, {"hidden_failure": PIPE, "last_words": "no"}, "train.py exited with 3: no"),
        (1, {"last_words": "the secret is known"}, "exit code 1: the *** is known"),
    ],
)
def test_reason_of_a_failure_has_its_likely_causes_and_last_words_without_secrets(
    code: int, known: dict[str, Any], reason: str
) -> None:
    assert outcome(code, **known).reason == reason


@pytest.mark.parametrize(
    ("code", "known", "expected"),
    [(5, {}, 5), (0, {"hidden_failure": PIPE}, 3), (0, {"torn": frozenset({"a"})}, 0)],
)
def test_exit_code_is_that_of_the_program_that_failed(
    code: int, known: dict[str, Any], expected: int
) -> None:
    assert outcome(code, **known).exit_code == expected


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (StopCause.NOTICE, OutcomeKind.INTERRUPTED),
        (StopCause.MAINTENANCE, OutcomeKind.INTERRUPTED),
        (StopCause.STOP, OutcomeKind.STOPPED),
    ],
)
def test_outcome_of_a_stop_follows_from_its_cause(cause: StopCause, kind: OutcomeKind) -> None:
    found = outcome_of_stop(stop(cause), exit_code=-9, step=3)
    assert found == Outcome(kind=kind, reason=cause.name, exit_code=-9, step=3)


def test_attempt_that_lost_the_run_reports_no_outcome() -> None:
    assert outcome_of_stop(stop(StopCause.FENCED), exit_code=None, step=None) is None
