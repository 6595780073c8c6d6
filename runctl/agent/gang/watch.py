"""The watch of an agent over the other nodes of its gang."""

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

from runctl.agent.gang.memory import GangMemory
from runctl.agent.gang.verdicts import GRACE, act_on, is_worse
from runctl.agent.instance.settings import Settings
from runctl.agent.reporting.progress import Progress
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import RunctlError
from runctl.model.gang import RankPulse
from runctl.model.run import Attempt, Run
from runctl.policy.gang_facts import NodeFacts, Verdict
from runctl.policy.gang_health import find_lead, judge
from runctl.policy.gang_pace import find_straggler

READ = 3.0
MAX_WAIT = 15.0
# A reading just before a limit would find it out only at the next one.
MARGIN = 0.1

logger = logging.getLogger(__name__)
_RANDOM = random.SystemRandom()


class RankPulses(Protocol):
    """The signs of life of the ranks of this node."""

    @property
    def has_launcher(self) -> bool:
        """Whether torchrun has started the ranks."""
        ...

    def read(self) -> tuple[RankPulse, ...]:
        """Return them by local rank; none before the program runs."""
        ...


class GangWatch:
    """Reads the attempt with its nodes every 3 s, judges, and requests a stop where it has to be.

    All of this happens in one thread; every change wakes the mailbox. `interval` are the seconds
    between two readings.
    """

    interval = READ

    def __init__(
        self,
        ledger: AgentLedger,
        settings: Settings,
        *,
        mailbox: Mailbox,
        progress: Progress,
        pulses: RankPulses,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._node = settings.node
        self._mailbox = mailbox
        self._progress = progress
        self._pulses = pulses
        self._clock = clock
        self._memory = GangMemory(settings.rank)
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._attempt: Attempt | None = None
        self._facts: tuple[NodeFacts, ...] = ()
        self._verdict: Verdict | None = None
        self._due = float("-inf")
        self._failures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gang", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=30)

    @property
    def attempt(self) -> Attempt | None:
        """The attempt with all its nodes as it was read last, None before that."""
        with self._lock:
            return self._attempt

    @property
    def verdict(self) -> Verdict | None:
        """What is wrong with the gang, or that it has completed; None while it is at work."""
        with self._lock:
            return self._verdict

    @property
    def silent(self) -> frozenset[int]:
        """The ranks whose agents do not answer, or whose machines are gone."""
        with self._lock:
            return frozenset(facts.rank for facts in self._facts if facts.is_silent)

    def is_lead(self) -> bool:
        """Whether this node has the lowest rank of those whose agents report."""
        with self._lock:
            return find_lead(self._facts) == self._node.rank

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._progress.report_gang(ranks=self._pulses.read())
                if self._clock() >= self._due:
                    self.check()
            except Exception:  # whatever it is, the next check must still come
                logger.exception("the other nodes cannot be watched")
                self._due = self._clock() + READ
            self._stop.wait(max(0.0, min(self.interval, self._due - self._clock())))

    def check(self) -> None:
        """Read the attempt once, and act on what has changed."""
        try:
            if self._run is None:
                self._run = self._ledger.find_run(self._node.run_id)
            attempt = self._ledger.find_attempt(self._node.run_id, self._node.attempt)
        except RunctlError as exc:
            self._failures += 1
            logger.warning("the other nodes cannot be seen: %s", exc)
            self._due = self._clock() + _jittered(min(READ * 2**self._failures, MAX_WAIT))
            return
        self._failures = 0
        now = self._clock()
        if attempt is None or self._run is None:
            self._due = now + READ
            return
        facts = self._memory.note(attempt, now)
        self._note(self._run, attempt, facts)
        limit = self._memory.next_limit(facts)
        wait = _jittered(self.interval)
        self._due = now + (wait if limit is None else min(wait, limit + MARGIN))

    def _note(self, run: Run, attempt: Attempt, facts: tuple[NodeFacts, ...]) -> None:
        active = facts[: run.request.gang.nodes]
        found = judge(
            active,
            must_join=self._pulses.has_launcher,
            replaces_stragglers=run.request.gang.replace_stragglers,
        )
        with self._lock:
            has_changed = self._attempt != attempt
            self._attempt, self._facts = attempt, facts
            is_new = is_worse(found, self._verdict)
            if is_new:
                self._verdict = found
        self._warn(active)
        if attempt.ended is not None:
            self._stop_after_the_end(attempt)
        elif found is not None and is_new:
            logger.info("%s: %s", type(found).__name__, found.reason or "all nodes have ended")
            act_on(found, facts, self._mailbox)
        if has_changed or is_new:
            self._mailbox.wake()

    def _warn(self, active: tuple[NodeFacts, ...]) -> None:
        """Report a slow node, by the lead alone: what it reports is what people see."""
        straggler = find_straggler(active) if self.is_lead() else None
        warning = "" if straggler is None else straggler.reason
        if self._progress.warn(warning, about="straggler") and warning:
            logger.warning("%s", warning)

    def _stop_after_the_end(self, attempt: Attempt) -> None:
        """Request a stop: another agent, or a function, has ended the attempt in the ledger."""
        run = self._ledger.find_run(attempt.run_id)
        now = datetime.now(timezone.utc)
        kill_at = None
        if run is not None and run.ended is not None:
            cause, reason = StopCause.STOP, f"the run has ended: {run.ended.value}"
        elif run is not None and run.fence > attempt.number:
            cause, reason = StopCause.FENCED, f"attempt {run.fence} has taken over"
        else:
            cause, reason = StopCause.PEER, "the attempt has ended in the ledger"
            kill_at = time.monotonic() + GRACE
        self._mailbox.end(StopRequest(cause=cause, reason=reason, detected=now, kill_at=kill_at))


def _jittered(seconds: float) -> float:
    """Return slightly less than `seconds`, so that nodes do not all read at once."""
    return seconds * _RANDOM.uniform(0.85, 1.0)
