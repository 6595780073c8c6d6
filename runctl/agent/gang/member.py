"""A node as a member of its gang: the end of its own part, and the report for all of them."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from runctl.agent.gang.ports import GangView
from runctl.agent.gang.pulses import GangProgram, Pulses
from runctl.agent.gang.rendezvous import ReadyNode, Rendezvous
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Program
from runctl.agent.runtime.world import World
from runctl.agent.signals.mailbox import Mailbox, StopCause
from runctl.model.gang import GangReport, NodeEnd
from runctl.model.gang_options import GangOptions
from runctl.model.node import Node, NodeProgress
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.policy.gang_facts import Completed
from runctl.policy.gang_outcome import outcome_of_gang

POLL_SECONDS = 0.2
# The time for the others to store what they have, once it is known that the attempt ends.
UNTIL_STORED = timedelta(seconds=60)
# The time that the report itself needs before EC2 takes the instance.
RESERVE = timedelta(seconds=5)
# The longest that an end is awaited of which nothing is heard.
UNTIL_ENDED = timedelta(minutes=20)
# These end the machine itself, or leave nothing to report.
_FINAL = frozenset({StopCause.STOP, StopCause.SHUTDOWN})
_OF_MACHINE = frozenset({StopCause.MAINTENANCE, StopCause.NOTICE, StopCause.SHUTDOWN})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GangPart:
    """The part of one node in the program of all.

    `prepared` is what all have agreed to start from. `peers` returns the other nodes that train, as
    the ledger has them. `began` and `ended` take note of the node's own program.
    """

    world: World
    prepared: Prepared
    peers: Callable[[], Sequence[Node]]
    began: Callable[[Program], None]
    ended: Callable[[], None]


class GangMember:
    """Stores how the own part has ended, and decides who reports the attempt, when and how.

    That is the lead, the node with the lowest rank whose agent is heard. If it goes silent, the
    next one takes over; a second report is refused, since its token is spent.
    """

    def __init__(
        self,
        view: GangView,
        rendezvous: Rendezvous,
        pulses: Pulses,
        *,
        rank: int,
        mailbox: Mailbox,
        progress: Progress,
        earlier: NodeProgress,
    ) -> None:
        """`earlier` is what an earlier agent has reported of this node."""
        self._view = view
        self._rendezvous = rendezvous
        self._pulses = pulses
        self._mailbox = mailbox
        self._progress = progress
        self._rank = rank
        self._earlier_end = _earlier_end(earlier)
        self._options = GangOptions()
        self._is_done = False
        if self._earlier_end is not None:
            progress.report_gang(ended=self._earlier_end)

    @property
    def earlier_outcome(self) -> Outcome | None:
        """How the program ended that an earlier agent has started, None if there was none.

        The others have lost its ranks, so that it cannot be started again for itself.
        """
        return None if self._earlier_end is None else self._earlier_end.outcome

    def start(self) -> None:
        """Begin to watch over the others."""
        self._view.start()

    def begin(self, options: GangOptions) -> None:
        """Take the options of the request, which say how many nodes are active."""
        self._options = options

    def meet(self, ready: ReadyNode) -> GangPart:
        """Wait until all nodes are ready to start the program; return the part of this one.

        Raises RequestError if the nodes cannot train together, and EndedEarlyError if the attempt
        ends before they are all there.
        """
        world, prepared = self._rendezvous.meet(ready)

        def began(program: Program) -> None:
            self._pulses.begin(
                GangProgram(
                    pids=program.pids,
                    address=world.address,
                    port=world.port,
                    ranks=world.processes,
                    has_launcher=world.has_launcher,
                )
            )

        return GangPart(
            world=world,
            prepared=prepared,
            peers=self._peers,
            began=began,
            ended=self._pulses.end,
        )

    def _peers(self) -> tuple[Node, ...]:
        return tuple(node for node in self._active() if node.rank != self._rank)

    def await_turn(self) -> None:
        """Return at once on a node that trains; a spare waits for the end of the attempt.

        Then EndedEarlyError is raised.
        """
        if not self._rendezvous.is_active(self._options):
            self._rendezvous.await_end()

    def is_lead(self) -> bool:
        """Whether this node acts for the attempt, as long as that is not reported."""
        return not self._is_done and self._view.is_lead()

    def close(self) -> None:
        """Note that this node has nothing more to report for the attempt."""
        self._is_done = True
        self._view.stop()

    def rest(self) -> None:
        """Note that the attempt was reported already, by an earlier agent."""
        self._is_done = True

    def conclude(self, own: Outcome | None, *, store: Callable[[], object]) -> Outcome | None:
        """Store the own end, and wait; return what is to be reported, None if others do.

        `own` is the outcome that this node would report if it were the only one, None if a later
        attempt owns the run. `store` stores the progress at once.
        """
        if own is None:
            return None
        self._progress.enter("done")
        own = self._with_own_rank(own)
        end = self._progress.gang.ended or NodeEnd(
            at=datetime.now(timezone.utc),
            outcome=own,
            was_stopped=self._mailbox.ending is not None,
        )
        self._progress.report_gang(ended=replace(end, outcome=own, is_stored=True))
        store()
        began, judged = time.monotonic(), None
        while not self._is_over(began):
            verdict = self._view.verdict
            if judged is None and verdict is not None:
                judged = time.monotonic()
            is_known = verdict is not None or own.kind is OutcomeKind.STOPPED
            if self.is_lead() and is_known and self._may_report(judged):
                return outcome_of_gang(verdict, own)
            time.sleep(POLL_SECONDS)
        return None

    def _with_own_rank(self, own: Outcome) -> Outcome:
        """Return the outcome with this node among the lost ones, if its machine is to blame."""
        stop = self._mailbox.ending
        if stop is None or stop.cause not in _OF_MACHINE or own.kind is not OutcomeKind.INTERRUPTED:
            return own
        return replace(own, lost_ranks=tuple(sorted({*own.lost_ranks, self._rank})))

    def may_stay(self, reported: Outcome | None) -> bool:
        """Whether this machine may go on with the next attempt, if there will be one."""
        stop = self._mailbox.ending
        if self._mailbox.noticed_at is not None or (stop is not None and stop.cause in _FINAL):
            return False
        is_complete = isinstance(self._view.verdict, Completed) or (
            reported is not None and reported.kind is OutcomeKind.COMPLETED
        )
        return not is_complete

    def _is_over(self, began: float) -> bool:
        """Whether nobody waits for a report of this attempt any more."""
        attempt = self._view.attempt
        if self._mailbox.is_fenced or (attempt is not None and attempt.ended is not None):
            return True
        return time.monotonic() - began > UNTIL_ENDED.total_seconds() and not self._is_at_work()

    def _is_at_work(self) -> bool:
        return self._view.verdict is None and bool(self._awaited())

    def _may_report(self, judged: float | None) -> bool:
        """Whether all others have stored what they have, or cannot any more."""
        if self._view.attempt is None:
            return False
        if not self._awaited():
            return True
        stop = self._mailbox.ending
        left = None if stop is None else stop.time_left()
        if left is not None:
            return left <= RESERVE
        # Without a verdict the others are at work, which may take as long as it likes.
        return judged is not None and time.monotonic() - judged >= UNTIL_STORED.total_seconds()

    def _active(self) -> tuple[Node, ...]:
        """Return the active nodes, without the spares."""
        attempt = self._view.attempt
        return () if attempt is None else attempt.nodes[: self._options.nodes]

    def _awaited(self) -> list[Node]:
        silent = self._view.silent
        return [
            node for node in self._active() if node.rank not in silent and not _has_stored(node)
        ]


def _has_stored(node: Node) -> bool:
    ended = (node.progress.gang or GangReport()).ended
    return ended is not None and ended.is_stored


def _earlier_end(progress: NodeProgress) -> NodeEnd | None:
    ended = None if progress.gang is None else progress.gang.ended
    if ended is not None or "started" not in progress.timeline:
        return ended
    return NodeEnd(
        at=datetime.now(timezone.utc),
        outcome=Outcome(kind=OutcomeKind.INTERRUPTED, reason="its agent was started again"),
        was_stopped=True,
    )
