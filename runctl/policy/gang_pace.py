"""The pace of a gang: ranks that keep the others waiting, and nodes that are slower. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from runctl.model.gang import RankPulse
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.policy.gang_facts import Failed, Hung, NodeFacts, Straggler, Verdict

# All limits are in seconds.
# Named within 30 s and two steps: reports are up to 3 s old, and so are readings of them. The
# duration of a step is estimated from these as well.
HANG = 22.0
HANG_STEPS = 2
# Before any step is finished, nobody knows how long one takes.
FIRST_STEP = 5 * 60.0
# A rank that computes may be evaluating, saving or compiling.
BUSY = 30 * 60.0
SLOW = 1.5
# Of a step that consists of waiting for data or for gradients, a slow node costs almost nothing.
WORTH = 0.1


def find_hang(nodes: Sequence[NodeFacts]) -> Verdict | None:
    """Return the ranks that keep the others waiting, by the counts of their agreements."""
    running = [facts for facts in nodes if facts.end is None]
    ranks = [_Rank(facts, pulse) for facts in running for pulse in facts.report.ranks]
    if not ranks or not all(facts.report.ranks for facts in running):
        return None
    newest = max(rank.pulse.entered for rank in ranks)
    idle = min(rank.idle for rank in ranks)
    limit = _hang_limit(running)
    if newest == 0 or idle < limit:
        return None
    ended = [facts for facts in nodes if facts.end is not None]
    if ended:
        return _waits_for_ended(ended[0], ranks, idle, limit)
    suspects = _suspects(ranks, newest)
    if not suspects:
        return _without_a_suspect(ranks, idle, limit)
    guilty = [rank for rank in suspects if rank.is_still(limit) or idle >= BUSY]
    return _hang_of(guilty, idle) if guilty else None


def find_straggler(nodes: Sequence[NodeFacts]) -> Straggler | None:
    """Return the node that computes longest for a step, if that is much longer than usual."""
    known = [(facts.busy_step, facts) for facts in nodes if facts.busy_step is not None]
    if len(known) < 2 or len(known) < len(nodes):
        return None
    usual = median_low(sorted(busy for busy, _ in known))
    slowest, facts = max(known, key=lambda pair: (pair[0], -pair[1].rank))
    if usual <= 0 or slowest <= SLOW * usual:
        return None
    if slowest - usual < WORTH * (facts.step_seconds or slowest):
        return None
    reason = (
        f"{facts} computes {slowest:.2f} s for a step, {slowest / usual:.1f} times the "
        f"{usual:.2f} s of the others"
    )
    return Straggler(reason=reason, ranks=(facts.rank,))


@dataclass(frozen=True)
class _Rank:
    """A rank with its node; the times of its pulse are those of now."""

    facts: NodeFacts
    pulse: RankPulse

    @property
    def idle(self) -> float:
        return self.pulse.idle_seconds + self.facts.age

    def is_still(self, limit: float) -> bool:
        """Whether it does nothing, which its agent notices some time later."""
        return self.pulse.is_suspended or self.pulse.still_seconds + self.facts.age >= limit / 2

    @property
    def is_waiting(self) -> bool:
        return self.pulse.entered > self.pulse.left


def _hang_limit(nodes: Sequence[NodeFacts]) -> float:
    steps = [facts.step_seconds for facts in nodes if facts.step_seconds is not None]
    return HANG + HANG_STEPS * max(steps) if steps else FIRST_STEP


def _suspects(ranks: Sequence[_Rank], newest: int) -> list[_Rank]:
    """Return the ranks that are behind the others."""
    if behind := [rank for rank in ranks if rank.pulse.entered < newest]:
        return behind
    if suspended := [rank for rank in ranks if rank.pulse.is_suspended]:
        return suspended
    waiting = [rank for rank in ranks if rank.is_waiting]
    return waiting if len(waiting) < len(ranks) else []


def _without_a_suspect(ranks: Sequence[_Rank], idle: float, limit: float) -> Hung | None:
    """Judge ranks of which none is behind: all wait, or all are between two agreements."""
    if all(rank.is_waiting for rank in ranks):
        reason = "all ranks have waited for each other"
    elif idle >= BUSY or all(rank.is_still(limit) for rank in ranks):
        reason = "no rank has finished a step"
    else:
        return None
    names = ", ".join(dict.fromkeys(str(rank.facts) for rank in ranks))
    return Hung(reason=f"{reason} for {idle:.0f} s, on {names}")


def _hang_of(guilty: Sequence[_Rank], idle: float) -> Hung:
    nodes = list(dict.fromkeys(rank.facts.rank for rank in guilty))
    names = " and ".join(dict.fromkeys(str(rank.facts) for rank in guilty))
    verb = "hangs" if len(nodes) == 1 else "hang"
    return Hung(
        reason=f"{names} {verb}: the other ranks have waited for {idle:.0f} s",
        ranks=tuple(nodes),
    )


def _waits_for_ended(
    ended: NodeFacts, ranks: Sequence[_Rank], idle: float, limit: float
) -> Failed | None:
    if not all(rank.is_waiting or rank.is_still(limit) for rank in ranks):
        return None
    reason = (
        f"{ended}: its program has ended with 0, but the ranks of {ranks[0].facts} have waited for "
        f"{idle:.0f} s; all ranks must make the same number of steps"
    )
    outcome = Outcome(kind=OutcomeKind.FAILED, reason=reason, exit_code=0)
    return Failed(reason=reason, ranks=(ended.rank,), outcome=outcome)
