"""The fallback: a trainer that died of its checkpoint is restarted from the previous one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from runctl.agent.prepare.prepared import Prepared
from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.committer import Committer
from runctl.agent.saving.marks import Marks
from runctl.agent.saving.node_committer import NodeCommitter
from runctl.agent.signals.mailbox import Mailbox
from runctl.checkpoint.restore import Fetched
from runctl.fault_points import reach
from runctl.model.checkpoint import name_of
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.policy.fallback import Death, DeathCause, judge, may_fall_back

BEGINNING = "the beginning"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of one trainer of the attempt.

    `close` returns once its session has stopped saving. `has_other_cause` says that the machine is
    to blame, because its disk is full or memory ran out.
    """

    outcome: Outcome
    lived: timedelta
    committer: Committer | NodeCommitter
    close: Callable[[], None]
    has_other_cause: bool


class Fallback:
    """Decides after each trainer of an attempt whether another is started, and from where."""

    def __init__(
        self,
        marks: Marks,
        *,
        attempt: int,
        mailbox: Mailbox,
        progress: Progress,
        restore_before: Callable[[Prepared, frozenset[str]], Prepared | None],
        outcome_of_stop: Callable[[int | None], Outcome | None],
    ) -> None:
        self._marks = marks
        self._attempt = attempt
        self._mailbox = mailbox
        self._progress = progress
        self._restore_before = restore_before
        self._outcome_of_stop = outcome_of_stop
        self._deaths: list[Death] = []
        self._first: Outcome | None = None
        self._names: list[str] = []
        self._tried: frozenset[str] = frozenset()

    def after(self, ended: Ended, prepared: Prepared) -> Prepared | Outcome | None:
        """Return what the next trainer starts from, or how the attempt ends.

        Raises EndedEarlyError if a stop is requested while the previous checkpoint is being
        fetched.
        """
        outcome, given = ended.outcome, prepared.restored
        died = outcome.kind is OutcomeKind.FAILED and bool(outcome.exit_code)
        if not died or (given is None and not self._deaths):
            self._record_success(outcome, given)
            return outcome
        self._record_death(ended, prepared)
        cause = judge(self._deaths)
        if cause is DeathCause.UNRELATED:
            return outcome
        if cause is DeathCause.PROGRAM or given is None:
            return self._blame_program(outcome)
        self._suspect([given.key, *ended.committer.committed], prepared)
        if self._mailbox.ending is not None:
            # No time is left for another try; the next attempt starts from the previous checkpoint.
            return self._outcome_of_stop(outcome.exit_code)
        before = None
        if may_fall_back(self._deaths):
            ended.close()
            self._suspect(ended.committer.committed, prepared)
            reach("fallback.marked")
            before = self._restore_before(prepared, self._tried)
        if before is None:
            return self._blame_program(outcome)
        self._announce(outcome, ended.lived, before)
        return before

    def _record_success(self, outcome: Outcome, given: Fetched | None) -> None:
        if outcome.kind is OutcomeKind.COMPLETED and given is not None:
            self._marks.prove(given.key)

    def _record_death(self, ended: Ended, prepared: Prepared) -> None:
        outcome, given = ended.outcome, prepared.restored
        proven = None if prepared.run is None else prepared.run.proven
        self._first = self._first or outcome
        self._names.append(_name(given))
        self._deaths.append(
            Death(
                exit_code=outcome.exit_code or 0,
                failure_id=outcome.failure_id,
                lived=ended.lived,
                continued=ended.committer.has_continued,
                is_certain=given is None or given.key == proven,
                has_other_cause=ended.has_other_cause,
            )
        )

    def _suspect(self, keys: Sequence[str], prepared: Prepared) -> None:
        """Mark the checkpoint that the trainer was given, and those it committed with its files.

        This is done at once: if the machine is lost, the next one must not start from them.
        """
        known = frozenset() if prepared.run is None else prepared.run.suspects
        self._marks.suspect([key for key in keys if key not in self._tried | known])
        self._tried |= frozenset(keys)

    def _blame_program(self, outcome: Outcome) -> Outcome:
        """Return the outcome if the trainer dies whatever checkpoint it is given."""
        self._marks.clear()
        self._progress.warn("", about="fallback")
        first = self._first
        if first is None or len(self._deaths) == 1:
            return outcome
        summary, colon, details = first.reason.partition(": ")
        given, *others = self._names
        return replace(
            first,
            reason=f"{summary} from {given}, and again from {_listed(others)}{colon}{details}",
            fingerprint=first.failure_id,
        )

    def _announce(self, outcome: Outcome, lived: timedelta, before: Prepared) -> None:
        died = self._names[-1]
        start = _name(before.restored)
        logger.warning(
            "attempt %d: the trainer exited with %s %.0f s after it was given %s; restarting it "
            "from %s (the previous one)",
            self._attempt,
            outcome.exit_code,
            lived.total_seconds(),
            died,
            start,
        )
        self._progress.begin_again()
        self._progress.warn(
            f"the trainer exited with {outcome.exit_code} after it was given {died}, which is "
            f"suspect now; it was restarted from {start}",
            about="fallback",
        )


def _name(given: Fetched | None) -> str:
    if given is None:
        return BEGINNING
    return name_of(given.manifest.step, given.manifest.save)


def _listed(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
