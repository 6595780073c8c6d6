"""The facts about the nodes of a gang, as one of its agents sees them, and the verdicts on it."""

from dataclasses import dataclass

from runctl.model.gang import GangReport, NodeEnd
from runctl.model.node import Node, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool

# Agents report every 3 s. All limits are in seconds.
SILENT = 10.0
BOOT = 10 * 60.0
METAL_BOOT = 30 * 60.0
# A machine that the gang has kept only goes on with the attempt.
KEPT_BOOT = 3 * 60.0


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """A node as an agent sees it; durations in seconds by the clock of that agent.

    `age` is the time for which its heartbeat has not changed, or for which a node without any is
    awaited. `is_own` says that it is the agent's own. `running_for` is the time since its program
    was started, `launched_after` the time from then until its launcher had found those of the other
    nodes, `joined_after` that until all its ranks had joined the rendezvous, and `ended_for` the
    time since its end. `step_seconds` is the usual duration of its steps, and
    `busy_step` the time that its slowest rank computes for one; None where nothing is known.
    """

    node: Node
    age: float = 0.0
    is_own: bool = False
    is_kept: bool = False
    running_for: float | None = None
    launched_after: float | None = None
    joined_after: float | None = None
    ended_for: float | None = None
    step_seconds: float | None = None
    busy_step: float | None = None

    @property
    def rank(self) -> int:
        """Its rank in the attempt."""
        return self.node.rank

    @property
    def report(self) -> GangReport:
        """The last report of its agent."""
        return self.node.progress.gang or GangReport()

    @property
    def end(self) -> NodeEnd | None:
        """How its program has ended, None while it runs."""
        return self.report.ended

    @property
    def ran_at_report(self) -> float:
        """How long its program had run by its last report; what it did since is not yet known."""
        return max(0.0, (self.running_for or 0.0) - self.age)

    @property
    def is_settled(self) -> bool:
        """Whether it has completed its part, so that nobody needs it any more."""
        end = self.end
        return end is not None and end.is_stored and end.outcome.kind is OutcomeKind.COMPLETED

    @property
    def is_silent(self) -> bool:
        """Whether its agent does not answer, or its machine is gone."""
        if self.is_own:
            return False
        if self.node.stage is NodeStage.GONE:
            return True
        limit = SILENT if self.node.heartbeat_at is not None else self._boot
        return self.age >= limit

    @property
    def _boot(self) -> float:
        if self.is_kept:
            return KEPT_BOOT
        try:
            return METAL_BOOT if ".metal" in Pool.parse(self.node.pool).instance_type else BOOT
        except ValueError:
            return BOOT

    def explain(self, reason: str) -> str:
        """Return a reason that names the node."""
        return f"{self}: {reason}" if reason else f"{self} has ended"

    def __str__(self) -> str:
        return f"node {self.rank} ({self.node.instance_id or 'no instance'})"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is wrong with a gang. `ranks` are the nodes that are to blame, `reason` a sentence."""

    reason: str = ""
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completed(Verdict):
    """The programs of all nodes have ended with 0, and everything is stored."""


@dataclass(frozen=True, kw_only=True)
class Noticed(Verdict):
    """Nodes leave: all save together. `outcome` is that of a node that has done so already."""

    outcome: Outcome | None = None


@dataclass(frozen=True, kw_only=True)
class Lost(Verdict):
    """Nodes are gone or silent."""


@dataclass(frozen=True, kw_only=True)
class Hung(Verdict):
    """The ranks wait for those of some nodes; without `ranks`, nobody knows for which."""


@dataclass(frozen=True, kw_only=True)
class NotJoined(Verdict):
    """The ranks of some nodes do not come to the rendezvous."""


@dataclass(frozen=True, kw_only=True)
class Failed(Verdict):
    """A program has failed, or all do something that cannot work; `outcome` says how."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Straggler(Verdict):
    """Nodes take much longer than the others for each step."""
