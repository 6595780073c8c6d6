"""The memory of a watch over a gang: since when each of its nodes shows what it shows."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from runctl.model.gang import GangReport, RankPulse
from runctl.model.node import Node
from runctl.model.run import Attempt, AttemptStage, Launched
from runctl.policy.gang_facts import SILENT, NodeFacts

# The readings from which the usual duration of a step follows, about two minutes of them.
READINGS = 40
MIN_STEPS = 20
MIN_SECONDS = 30.0


@dataclass(frozen=True)
class _Reading:
    at: float
    ranks: tuple[RankPulse, ...]

    @property
    def steps(self) -> int:
        return min(rank.left for rank in self.ranks)


@dataclass
class _NodeMemory:
    """What is remembered of a node; instants are monotonic seconds."""

    heartbeat_at: datetime | None
    changed_at: float
    started_at: float | None = None
    launched_at: float | None = None
    joined_at: float | None = None
    ended_at: float | None = None
    readings: deque[_Reading] = field(default_factory=lambda: deque(maxlen=READINGS))

    def note(self, node: Node, now: float) -> None:
        report = node.progress.gang or GangReport()
        if node.heartbeat_at != self.heartbeat_at:
            self.heartbeat_at, self.changed_at = node.heartbeat_at, now
        if self.started_at is None and "started" in node.progress.timeline:
            self.started_at = now
        if self.launched_at is None and report.ranks:
            self.launched_at = now
        if self.joined_at is None and report.ranks and all(map(_has_joined, report.ranks)):
            self.joined_at = now
        if self.ended_at is None and report.ended is not None:
            self.ended_at = now
        self._note_steps(report.ranks, now)

    def _note_steps(self, ranks: tuple[RankPulse, ...], now: float) -> None:
        if not ranks:
            return
        reading = _Reading(now, ranks)
        last = self.readings[-1] if self.readings else None
        if last is None or reading.steps > last.steps:
            self.readings.append(reading)
        elif reading.steps < last.steps or len(ranks) != len(last.ranks):
            self.readings.clear()  # another program counts anew

    def step_seconds(self) -> float | None:
        """Return the usual time from a step to the next."""
        pairs = zip(self.readings, list(self.readings)[1:], strict=False)
        times = [(late.at - early.at) / (late.steps - early.steps) for early, late in pairs]
        return median(times) if times else None

    def busy_step(self) -> float | None:
        """Return the time that the slowest rank computes for a step, once enough are known."""
        if len(self.readings) < 2:
            return None
        first, last = self.readings[0], self.readings[-1]
        steps = last.steps - first.steps
        if steps < MIN_STEPS or last.at - first.at < MIN_SECONDS:
            return None
        pairs = zip(first.ranks, last.ranks, strict=True)
        return max(late.busy_seconds - early.busy_seconds for early, late in pairs) / steps


def _has_joined(rank: RankPulse) -> bool:
    # Whatever agrees with others has found them.
    return rank.has_joined or rank.left > 0


class GangMemory:
    """Turns successive readings of an attempt into facts about its nodes.

    Silence is measured by the reader's own clock, between readings: where the ledger could not be
    read for a while, the fault is the reader's own, and silence starts anew.
    """

    def __init__(self, own_rank: int) -> None:
        self._own_rank = own_rank
        self._read_at: float | None = None
        self._nodes: dict[int, _NodeMemory] = {}

    def note(self, attempt: Attempt, now: float) -> tuple[NodeFacts, ...]:
        """Note a reading at `now`, in monotonic seconds, and return the facts as of then."""
        was_blind = self._read_at is None or now - self._read_at >= SILENT
        self._read_at = now
        kept = attempt.source.kept if isinstance(attempt.source, Launched) else ()
        kept_ids = {machine.instance_id for machine in kept}
        facts = []
        for node in attempt.nodes:
            memory = self._nodes.get(node.rank)
            if memory is None:
                memory = self._nodes[node.rank] = _NodeMemory(node.heartbeat_at, now)
            elif was_blind and memory.heartbeat_at is not None:
                memory.changed_at = now
            is_kept = node.instance_id in kept_ids
            if is_kept and attempt.stage is not AttemptStage.RUNNING:
                memory.changed_at = now  # it may still save for the attempt before this one
            memory.note(node, now)
            facts.append(self._facts(node, memory, now, is_kept=is_kept))
        return tuple(facts)

    def next_limit(self, nodes: Sequence[NodeFacts]) -> float | None:
        """Return the seconds until the next silence of a node would count, None without any."""
        waits = [
            SILENT - facts.age
            for facts in nodes
            if facts.node.heartbeat_at is not None and not facts.is_own and facts.age < SILENT
        ]
        return min(waits, default=None)

    def _facts(self, node: Node, memory: _NodeMemory, now: float, *, is_kept: bool) -> NodeFacts:
        def since(instant: float | None) -> float | None:
            return None if instant is None else now - instant

        def after_start(instant: float | None) -> float | None:
            if instant is None:
                return None
            return instant - (instant if memory.started_at is None else memory.started_at)

        return NodeFacts(
            node=node,
            age=now - memory.changed_at,
            is_own=node.rank == self._own_rank,
            is_kept=is_kept,
            running_for=since(memory.started_at),
            launched_after=after_start(memory.launched_at),
            joined_after=after_start(memory.joined_at),
            ended_for=since(memory.ended_at),
            step_seconds=memory.step_seconds(),
            busy_step=memory.busy_step(),
        )
