"""What follows an outcome: one pure function of run, attempts, outcome and clock."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from runctl.model.kinds import KindPolicy
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus, is_own_failure
from runctl.model.run import Attempt, Run

STALLED_ATTEMPTS = 3
# Taken by EC2 sooner than this, an attempt proves nothing about its trainer.
SHORT_LIFE = timedelta(minutes=10)
FIRST_BACKOFF = timedelta(seconds=30)
MAX_BACKOFF = timedelta(minutes=30)
# After a launch in which EC2 throttled or failed, which says nothing about capacity.
FIRST_RETRY = timedelta(seconds=5)
MAX_RETRY_DELAY = timedelta(minutes=5)


class DecisionKind(str, Enum):
    """The three things that can follow an attempt."""

    RELAUNCH = "relaunch"
    FINISH = "finish"
    GIVE_UP = "give_up"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do next. `status` is how the run ends, None for a relaunch after `wait`."""

    kind: DecisionKind
    reason: str
    status: RunStatus | None = None
    wait: timedelta = timedelta(0)


def decide(
    run: Run,
    attempts: Sequence[Attempt],
    outcome: Outcome,
    *,
    policy: KindPolicy,
    now: datetime,
) -> Decision:
    """Decide what follows `outcome` of the last of `attempts`, by the policy of the run's kind.

    `attempts` are all of the run's attempts in the order of their numbers up to and including the
    one that ended; its own `ended` may still be unset. Total over every outcome.
    """
    limits = _Limits(run, attempts, outcome, policy, now)
    match outcome.kind:
        case OutcomeKind.COMPLETED if policy.restarts_indefinitely:
            return limits.check() or _restart("the program ended", attempts)
        case OutcomeKind.COMPLETED:
            return _finish(RunStatus.COMPLETED, "the trainer is done")
        case OutcomeKind.STOPPED:
            return _finish(RunStatus.STOPPED, outcome.reason or "stopped by the user")
        case OutcomeKind.FAILED if policy.restarts_indefinitely and is_own_failure(outcome):
            reason = f"the program failed with exit code {outcome.exit_code}"
            return limits.check() or _restart(reason, attempts)
        case OutcomeKind.FAILED:
            return _after_failure(run, attempts, outcome, limits=limits)
        case OutcomeKind.UNKNOWN:
            return _give_up("the attempt ended in a way that this version of runctl does not know")
        case OutcomeKind.NO_CAPACITY:
            return limits.check() or _relaunch(
                "EC2 gave no answer for some pools"
                if outcome.retry_soon
                else "no pool has capacity",
                wait=_backoff(attempts, outcome),
            )
        case OutcomeKind.INTERRUPTED | OutcomeKind.LOST:
            if not run.request.auto_resume:
                return _finish(RunStatus.INTERRUPTED, "interrupted, and auto_resume is off")
            return limits.check() or _relaunch(
                "the instance was reclaimed"
                if outcome.kind is OutcomeKind.INTERRUPTED
                else "the attempt went silent"
            )


def _after_failure(
    run: Run, attempts: Sequence[Attempt], outcome: Outcome, *, limits: "_Limits"
) -> Decision:
    """Retry what the request says, until it happens too often or makes no difference.

    These failures have a limit of their own, so interruptions leave it alone; but each retry is an
    attempt, and `max_attempts` and the deadline hold for every launch.
    """
    retry = run.request.retry
    reason = outcome.reason or "the trainer failed"
    if not (limits.policy.retries_failures and retry.covers(outcome.exit_code)):
        return _give_up(reason)
    earlier = [attempt for attempt in attempts[:-1] if is_own_failure(attempt.ended)]
    same = [one for one in earlier if one.ended and one.ended.failure_id == outcome.failure_id]
    if same and not _progressed_since(run, same[-1], outcome):
        return _give_up(f"the same failure twice without progress in between: {reason}")
    failures = len(earlier) + 1
    if failures > retry.max_failures:
        return _give_up(
            f"failure {failures} of the trainer, and retry.max_failures is "
            f"{retry.max_failures}: {reason}"
        )
    return limits.check() or _relaunch(
        f"the trainer failed with exit code {outcome.exit_code}, which is retried "
        f"({failures} of {retry.max_failures})"
    )


def _restart(reason: str, attempts: Sequence[Attempt]) -> Decision:
    """Start a program again that ended by itself, later with each time in a row that it did."""
    earlier = itertools.takewhile(_ended_by_itself, reversed(attempts[:-1]))
    return _relaunch(reason, wait=_doubled(FIRST_RETRY, sum(1 for _ in earlier), MAX_RETRY_DELAY))


def _ended_by_itself(attempt: Attempt) -> bool:
    ended = attempt.ended
    return is_own_failure(ended) or (ended is not None and ended.kind is OutcomeKind.COMPLETED)


def _progressed_since(run: Run, failed: Attempt, outcome: Outcome) -> bool:
    """Whether the run has come further than it was when the attempt `failed`."""
    before = None if failed.ended is None else failed.ended.step
    if before is not None and outcome.step is not None:
        return outcome.step > before
    return (run.progressed_attempt or 0) > failed.number


@dataclass(frozen=True)
class _Limits:
    """The limits that hold for every launch of a run."""

    run: Run
    attempts: Sequence[Attempt]
    outcome: Outcome
    policy: KindPolicy
    now: datetime

    def check(self) -> Decision | None:
        """Return the decision to give up if a limit is reached, else None."""
        deadline = self.run.request.deadline
        if deadline is not None and self.now >= deadline:
            return _give_up(f"the deadline {deadline.isoformat()} has passed")
        if self.policy.restarts_indefinitely:
            return None
        most = self.run.request.max_attempts
        launched = [attempt for attempt in self.attempts if attempt.was_launched]
        if len(launched) >= most:
            return _give_up(f"max_attempts ({most}) reached")
        conclusive = [attempt for attempt in launched if self._is_conclusive(attempt)]
        if len(conclusive) >= STALLED_ATTEMPTS and not _progressed(
            self.run, conclusive[-STALLED_ATTEMPTS:]
        ):
            return _give_up(_stalled(self.run))
        return None

    def _is_conclusive(self, attempt: Attempt) -> bool:
        """Whether an attempt without progress counts against the run."""
        last = self.attempts[-1]
        if _was_cut_short(attempt, last, self.outcome, now=self.now):
            return False
        # Failures that are retried have a limit of their own.
        return not is_own_failure(self.outcome if attempt is last else attempt.ended)


def _stalled(run: Run) -> str:
    """Say that the last attempts came to nothing; those of a program that starts anew, why."""
    if run.best_step is not None and run.step is not None and run.step < run.best_step:
        return (
            f"{STALLED_ATTEMPTS} attempts in a row saved no step beyond {run.best_step}, which the "
            "run had reached before: the program does not resume; load the newest file of "
            "RUNCTL_CHECKPOINT_DIR at the start"
        )
    return (
        f"{STALLED_ATTEMPTS} attempts in a row ended without a new checkpoint; "
        "see the boot log and the trainer's log"
    )


def _was_cut_short(attempt: Attempt, last: Attempt, outcome: Outcome, *, now: datetime) -> bool:
    """Whether EC2 took the machine so soon that no checkpoint could be expected of it.

    However often in a row: that is no reason to give a run up. `last` ended with `outcome`, which
    may not be on its record yet.
    """
    ended = attempt.ended or (outcome if attempt.number == last.number else None)
    if ended is None or ended.kind is not OutcomeKind.INTERRUPTED or attempt.launched_at is None:
        return False
    return (attempt.ended_at or now) - attempt.launched_at < SHORT_LIFE


def _progressed(run: Run, tail: Sequence[Attempt]) -> bool:
    """Whether an attempt of `tail` made progress.

    The agents record that with each commit. Of a run that only older agents have saved: whether
    one committed a checkpoint beyond the one it started from. Only the holder of the fence commits,
    so what was committed after the first of them began to train is theirs. Attempts that never
    came that far, such as those whose boot fails, made no progress.
    """
    if run.save:
        return (run.progressed_attempt or 0) >= tail[0].number
    trained = [attempt for attempt in tail if attempt.running_at is not None]
    if not trained or run.step is None or run.committed_at is None:
        return False
    first = trained[0]
    assert first.running_at is not None
    return run.committed_at >= first.running_at and (
        first.resume_step is None or run.step > first.resume_step
    )


def is_progress(
    *,
    step: int | None,
    first_step: int | None,
    given_step: int | None,
    best_step: int | None,
    has_news: bool,
) -> bool:
    """Whether an attempt makes progress with a commit of `step`.

    It does if it resumed, so that its first numbered save was not below the step it was given, and
    is beyond that one now; or if it is beyond the best step of the run. As long as none of its
    saves has a number, anything new counts.
    """
    if step is None or first_step is None:
        return has_news
    if best_step is None or step > best_step:
        return True
    return given_step is not None and first_step >= given_step and step > given_step


def _backoff(attempts: Sequence[Attempt], outcome: Outcome) -> timedelta:
    """Double with each refusal of the same sort since the last machine.

    From 30 s to 30 min where the pools had nothing to give, from 5 s to 5 min where some of them
    gave no answer.
    """
    earlier = itertools.takewhile(lambda one: not one.was_launched, reversed(attempts[:-1]))
    same = sum(one.ended is None or one.ended.retry_soon == outcome.retry_soon for one in earlier)
    first, longest = (
        (FIRST_RETRY, MAX_RETRY_DELAY) if outcome.retry_soon else (FIRST_BACKOFF, MAX_BACKOFF)
    )
    return _doubled(first, same, longest)


def _doubled(first: timedelta, times: int, longest: timedelta) -> timedelta:
    doubled: timedelta = first * 2 ** min(times, 16)
    return min(doubled, longest)


def _finish(status: RunStatus, reason: str) -> Decision:
    return Decision(kind=DecisionKind.FINISH, status=status, reason=reason)


def _give_up(reason: str) -> Decision:
    return Decision(kind=DecisionKind.GIVE_UP, status=RunStatus.FAILED, reason=reason)


def _relaunch(reason: str, *, wait: timedelta = timedelta(0)) -> Decision:
    return Decision(kind=DecisionKind.RELAUNCH, reason=reason, wait=wait)
