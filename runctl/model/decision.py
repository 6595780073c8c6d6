"""The decision after an attempt: a pure function of run, attempts, outcome and clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from runctl.model.kinds import KindPolicy
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus, is_own_failure
from runctl.model.run import Attempt, Run

STALLED_ATTEMPTS = 3
# The instant in an attempt's timeline at which its server was ready for the first time.
READY = "ready"
# An attempt that EC2 takes sooner than this proves nothing about its trainer.
SHORT_LIFE = timedelta(minutes=10)
# After so many attempts whose disk was full, the disk has eight times its size.
MAX_DOUBLINGS = 3


class DecisionKind(str, Enum):
    """The three things that can follow an attempt."""

    RELAUNCH = "relaunch"
    FINISH = "finish"
    GIVE_UP = "give_up"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the run continues; `status` is how it ends, None for a relaunch.

    Where and when it is relaunched is for the launch plan (`runctl.policy.launch_plan`).
    """

    kind: DecisionKind
    reason: str
    status: RunStatus | None = None


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
            return limits.check() or _relaunch("the program ended")
        case OutcomeKind.COMPLETED:
            return _finish(RunStatus.COMPLETED, outcome.reason or policy.done)
        case OutcomeKind.STOPPED:
            return _finish(RunStatus.STOPPED, outcome.reason or "stopped by the user")
        case OutcomeKind.FAILED if policy.restarts_indefinitely and is_own_failure(outcome):
            reason = f"the program failed with exit code {outcome.exit_code}"
            return limits.check() or _relaunch(reason)
        case OutcomeKind.FAILED:
            return _after_failure(run, attempts, outcome, limits=limits)
        case OutcomeKind.UNKNOWN:
            return _give_up("the attempt ended in a way that this version of runctl does not know")
        case OutcomeKind.NO_CAPACITY:
            return limits.check() or _relaunch(
                "EC2 gave no answer for some pools"
                if outcome.retry_soon
                else "no pool has capacity"
            )
        case OutcomeKind.INTERRUPTED | OutcomeKind.LOST:
            if not run.request.limits.auto_resume:
                return _finish(RunStatus.INTERRUPTED, "interrupted, and auto_resume is off")
            return limits.check() or _relaunch(
                "the instance was reclaimed"
                if outcome.kind is OutcomeKind.INTERRUPTED
                else "the attempt went silent"
            )


def _after_full_disk(
    attempts: Sequence[Attempt], outcome: Outcome, *, limits: "_Limits"
) -> Decision:
    """Relaunch with a larger disk, from the newest checkpoint, a few times in the life of a run."""
    earlier = sum(_was_full(attempt.ended) for attempt in attempts[:-1])
    reason = outcome.reason or "the disk was full"
    if earlier >= MAX_DOUBLINGS:
        return _give_up(
            f"the disk was full in {earlier + 1} attempts, in the last one with "
            f"{2**MAX_DOUBLINGS} times its size: {reason}"
        )
    return limits.check() or _relaunch("the disk was full; the next attempt has twice its size")


def _was_full(ended: Outcome | None) -> bool:
    return ended is not None and ended.is_disk_full


def _after_failure(
    run: Run, attempts: Sequence[Attempt], outcome: Outcome, *, limits: "_Limits"
) -> Decision:
    """Retry the exit codes that the request lists, up to its limit and while the run progresses.

    Interruptions do not count towards that limit. But each retry is an attempt, and `max_attempts`
    and the deadline apply to every launch.
    """
    if outcome.is_disk_full:
        return _after_full_disk(attempts, outcome, limits=limits)
    retry = run.request.limits.retry
    reason = outcome.reason or "the trainer failed"
    if not (limits.policy.retries_failures and retry.covers(outcome.exit_code)):
        return _give_up(reason)
    earlier = [
        attempt
        for attempt in attempts[:-1]
        if is_own_failure(attempt.ended) and not _was_full(attempt.ended)
    ]
    same = [
        attempt
        for attempt in earlier
        if attempt.ended and attempt.ended.failure_id == outcome.failure_id
    ]
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


def _progressed_since(run: Run, failed: Attempt, outcome: Outcome) -> bool:
    """Return whether the run has progressed since the attempt `failed`."""
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
        deadline = self.run.request.limits.deadline
        if deadline is not None and self.now >= deadline:
            return _give_up(f"the deadline {deadline.isoformat()} has passed")
        if self.policy.becomes_ready and self._was_never_ready():
            return _give_up(
                f"{STALLED_ATTEMPTS} attempts in a row had no ready server, the last one because "
                f"{self.outcome.reason or self.outcome.kind.value}"
            )
        if self.policy.restarts_indefinitely:
            return None
        most = self.run.request.limits.max_attempts
        launched = [attempt for attempt in self.attempts if attempt.was_launched]
        if len(launched) >= most:
            return _give_up(f"max_attempts ({most}) reached")
        conclusive = [attempt for attempt in launched if self._is_conclusive(attempt)]
        if len(conclusive) >= STALLED_ATTEMPTS and not _progressed(
            self.run, conclusive[-STALLED_ATTEMPTS:]
        ):
            return _give_up(_stalled(self.run))
        return None

    def _was_never_ready(self) -> bool:
        """Return whether the last attempts had no ready server, those that EC2 took soon aside."""
        tried = [
            attempt
            for attempt in self.attempts
            if attempt.was_launched
            and not _was_cut_short(attempt, self.attempts[-1], self.outcome, now=self.now)
        ]
        recent = tried[-STALLED_ATTEMPTS:]
        is_ready = any(READY in attempt.timeline for attempt in recent)
        return len(recent) == STALLED_ATTEMPTS and not is_ready

    def _is_conclusive(self, attempt: Attempt) -> bool:
        """Return whether an attempt without progress counts against the run."""
        last = self.attempts[-1]
        if _was_cut_short(attempt, last, self.outcome, now=self.now):
            return False
        ended = self.outcome if attempt is last else attempt.ended
        # Failures that are retried have a limit of their own, and so have full disks.
        return not is_own_failure(ended) and not _was_full(ended)


def _stalled(run: Run) -> str:
    """Explain that the last attempts made no progress, and why if the program does not resume."""
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
    """Return whether EC2 took the instance too soon to expect a checkpoint.

    That is never a reason to give up, however often it happens in a row. `last` ended with
    `outcome`, which may not be recorded yet.
    """
    ended = attempt.ended or (outcome if attempt.number == last.number else None)
    if ended is None or ended.kind is not OutcomeKind.INTERRUPTED or attempt.launched_at is None:
        return False
    return (attempt.ended_at or now) - attempt.launched_at < SHORT_LIFE


def _progressed(run: Run, tail: Sequence[Attempt]) -> bool:
    """Return whether an attempt of `tail` made progress.

    That of a processing run is the end of a shard.
    Agents record progress with each commit. For a run that only older agents have saved, it is a
    checkpoint beyond the one that the attempt started from: only the holder of the fence commits,
    so a commit after the first of these attempts began to train is theirs. Attempts that never
    began to train, for example because booting failed, made no progress.
    """
    if any(attempt.shards is not None and attempt.shards.has_advanced for attempt in tail):
        return True
    if run.save or run.progressed_attempt is not None:
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
    """Return whether an attempt makes progress with a commit of `step`.

    It does if it resumed, that is, its first numbered save was not below the step it was given, and
    is beyond that step now; or if it is beyond the run's best step. While none of its saves has a
    number, anything new counts.
    """
    if step is None or first_step is None:
        return has_news
    if best_step is None or step > best_step:
        return True
    return given_step is not None and first_step >= given_step and step > given_step


def _finish(status: RunStatus, reason: str) -> Decision:
    return Decision(kind=DecisionKind.FINISH, status=status, reason=reason)


def _give_up(reason: str) -> Decision:
    return Decision(kind=DecisionKind.GIVE_UP, status=RunStatus.FAILED, reason=reason)


def _relaunch(reason: str) -> Decision:
    return Decision(kind=DecisionKind.RELAUNCH, reason=reason)
