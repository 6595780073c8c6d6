"""The outcome of an attempt, from the end of its program. Pure."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from runctl.agent.runtime.ports import ProgramExit
from runctl.agent.signals.mailbox import StopCause, StopRequest
from runctl.model.outcome import Outcome, OutcomeKind

# The time that a program's last save and outputs may take after its exit.
FINAL_UPLOAD = timedelta(minutes=10)
MAX_NAMES_SHOWN = 3
TERMINATED = frozenset({-signal.SIGTERM, 128 + signal.SIGTERM})
# Exit codes of a program that something else has ended.
ENDED_BY_OTHERS = TERMINATED | {-signal.SIGKILL, 128 + signal.SIGKILL}
IN_BACKGROUND = (
    "the trainer exited with 0, but left process {process} running in the background, which was "
    "ended with it; run it in the foreground: without `&`, nohup, setsid or a daemon option"
)


@dataclass(frozen=True, kw_only=True)
class EndedProgram:
    """A program that has exited by itself, and whether its results could be stored.

    `background` describes the process in which it continued, `torn` are the files that were still
    being written at the end, and `outputs_problem` says why the outputs are not stored. `hints`
    name likely causes of a failure. `helper_saw_sigterm` says that its helper has reported a
    SIGTERM, `stop` is the request to stop that has arrived by now, if any, and `is_disk_full` says
    that the disk of the instance is full.
    """

    exit: ProgramExit
    step: int | None = None
    background: str = ""
    torn: frozenset[str] = frozenset()
    is_saved: bool = True
    outputs_problem: str = ""
    hints: tuple[str, ...] = ()
    helper_saw_sigterm: bool = False
    stop: StopRequest | None = None
    is_disk_full: bool = False


def outcome_of_stop(
    stop: StopRequest | None, *, exit_code: int | None, step: int | None
) -> Outcome | None:
    """Return the outcome of an attempt that was asked to end; None if it may not report any."""
    if stop is None or stop.cause is StopCause.FENCED:
        return None
    # A trial that is pruned has done what it was for.
    kinds = {StopCause.STOP: OutcomeKind.STOPPED, StopCause.PRUNED: OutcomeKind.COMPLETED}
    return Outcome(
        kind=kinds.get(stop.cause, OutcomeKind.INTERRUPTED),
        reason=stop.reason,
        exit_code=exit_code,
        step=step,
        lost_ranks=stop.lost_ranks,
    )


def outcome_of_exit(ended: EndedProgram, *, mask: Callable[[str], str]) -> Outcome | None:
    """Return the outcome of an attempt whose program exited by itself.

    `mask` hides secrets in a text. The result is None if the attempt may not report any outcome.
    """
    code, stop = ended.exit.code, ended.stop
    # In a shutdown systemd sends SIGTERM to the trainer, too. A trainer that handles it may save
    # and exit with 0 before the agent knows of the shutdown: the next attempt finds out.
    if stop is not None and (code in ENDED_BY_OTHERS or stop.cause is StopCause.SHUTDOWN):
        return outcome_of_stop(stop, exit_code=code, step=ended.step)
    if sender := _sender_of_sigterm(ended):
        return Outcome(kind=OutcomeKind.INTERRUPTED, reason=sender, exit_code=code, step=ended.step)
    failure = _failure_of_program(ended)
    if failure is None and ended.torn and stop is not None:
        return outcome_of_stop(stop, exit_code=code, step=ended.step)
    failure = failure or _failure_to_store(ended)
    if failure is None:
        return Outcome(kind=OutcomeKind.COMPLETED, exit_code=0, step=ended.step)
    failed_code, reason = failure
    return failed_outcome(
        reason,
        mask=mask,
        exit_code=failed_code,
        step=ended.step,
        is_disk_full=ended.is_disk_full,
    )


def failed_outcome(
    reason: str,
    *,
    mask: Callable[[str], str],
    exit_code: int | None = None,
    step: int | None = None,
    is_disk_full: bool = False,
) -> Outcome:
    """Return a failure."""
    return Outcome(
        kind=OutcomeKind.FAILED,
        # Masked before it is shortened: a secret that is cut off would not be recognized.
        reason=mask(reason),
        exit_code=exit_code,
        step=step,
        is_disk_full=is_disk_full,
    )


def _sender_of_sigterm(ended: EndedProgram) -> str:
    """Describe who else sent the program the SIGTERM that it ended by, or return an empty text."""
    if ended.exit.stopped_by is not None:
        return ended.exit.stopped_by
    # Only the helper knows where signals are not traced. It does not know who sent one, and some
    # programs signal themselves and then fail.
    if ended.helper_saw_sigterm and ended.exit.code in TERMINATED | {0}:
        return "somebody sent SIGTERM to the trainer"
    return ""


def _failure_of_program(ended: EndedProgram) -> tuple[int | None, str] | None:
    """Return exit code and reason if the program has failed."""
    code, hidden = ended.exit.code, ended.exit.hidden_failure
    if code == 0 and hidden is not None:
        return hidden.exit_code, _explain(ended, hidden.exit_code, hidden.description)
    if code != 0:
        # torchrun exits with 1 whatever the exit code of the rank that failed.
        code = ended.exit.rank_code or code
        status = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
        return code, _explain(ended, code, status)
    if ended.background:
        return code, IN_BACKGROUND.format(process=ended.background)
    return None


def _failure_to_store(ended: EndedProgram) -> tuple[int | None, str] | None:
    """Return exit code and reason if the results of a successful program are not stored."""
    if ended.torn:
        names = ", ".join(sorted(ended.torn)[:MAX_NAMES_SHOWN])
        return 0, (
            f"the trainer is done, but {names} was still being written "
            f"{FINAL_UPLOAD.total_seconds() / 60:.0f} minutes later"
        )
    if not ended.is_saved:
        return None, "the trainer is done, but its last checkpoint could not be saved"
    if ended.outputs_problem:
        return 0, f"the trainer is done, but {ended.outputs_problem}"
    return None


def _explain(ended: EndedProgram, code: int, status: str) -> str:
    """Return how the program failed: the status, likely causes, and its last words."""
    hints = list(ended.hints)
    if ended.exit.memory_problem:
        hints.insert(0, ended.exit.memory_problem)
    elif code == -signal.SIGKILL:
        hints.insert(0, "out of memory?")
    text = " ".join([status, *(f"({hint})" for hint in hints)])
    return f"{text}: {ended.exit.last_words}" if ended.exit.last_words else text
