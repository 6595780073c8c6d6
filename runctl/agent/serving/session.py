"""A serving session: the server of an attempt from its first start to the attempt's outcome."""

import logging
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from runctl.agent.program_outcome import failed_outcome, outcome_of_stop
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Contract, Program, Runtime
from runctl.agent.serving.activity import Activity
from runctl.agent.serving.health import Health
from runctl.agent.serving.ports import choose_port, ports_of_descendants
from runctl.agent.serving.probe import make_probes
from runctl.agent.serving.replacement import Replacement
from runctl.agent.signals.mailbox import Mailbox, StopCause
from runctl.agent.signals.waiting import CHECK
from runctl.model.decision import READY
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.service import Service
from runctl.model.serving_options import IDLE, ServingOptions
from runctl.policy.restarts import WINDOW, restart_delay

# The time in which proxies move to the replacement before the old server stops accepting.
SWITCH = timedelta(seconds=10)
# The time proxies have to notice that the server will end, if it has no replacement yet.
LEAVE = timedelta(seconds=2)
# The time that is kept for the report before EC2 takes the instance.
RESERVE = timedelta(seconds=5)
# A server that does not answer probes will hardly answer a request to end.
UNHEALTHY_GRACE = timedelta(seconds=5)
PUBLISH_EVERY = 5.0
EXIT_POLL = 0.05

logger = logging.getLogger(__name__)
_RANDOM = random.SystemRandom()


@dataclass(frozen=True, kw_only=True)
class Server:
    """One start of the server."""

    program: Program
    health: Health
    port: int

    @property
    def has_ended(self) -> bool:
        """Whether it has exited, or has to be ended."""
        return self.program.exit_code is not None or bool(self.health.verdict)


class ServingSession:
    """Starts the server, starts it again when it ends, and hands over to its replacement.

    `publish` stores the progress where no heartbeat does yet, and `may_report` says whether an
    outcome could be reported.
    """

    def __init__(
        self,
        options: ServingOptions,
        runtime: Runtime,
        *,
        make_contract: Callable[[int], Contract],
        replacement: Replacement,
        mailbox: Mailbox,
        progress: Progress,
        publish: Callable[[], None],
        may_report: Callable[[], bool],
        mask: Callable[[str], str],
    ) -> None:
        self._options = options
        self._runtime = runtime
        self._make_contract = make_contract
        self._replacement = replacement
        self._mailbox = mailbox
        self._progress = progress
        self._publish = publish
        self._may_report = may_report
        self._activity = Activity()
        self._mask = mask
        self._ends: list[float] = []
        self._was_ready = False
        self._service: Service | None = None
        self._published_at = float("-inf")

    def run(self) -> Outcome | None:
        """Serve until the attempt ends; return None if a later attempt owns the run.

        Raises RequestError if the server cannot be started.
        """
        while True:
            server = self._start()
            try:
                while not server.has_ended and self._mailbox.ending is None:
                    self._mailbox.wait(CHECK.total_seconds())
                    self._note(server)
                    if self._is_idle(server):
                        return self._stop_idle(server)
                if server.program.exit_code is None and self._mailbox.ending is not None:
                    return self._after_stop_request(server)
                outcome = self._after_end(server)
            finally:
                server.health.stop()
                server.program.close()
            if outcome is not None:
                return outcome
            if self._mailbox.ending is not None:
                return self._stopped(server)

    def _start(self) -> Server:
        self._progress.enter("start")
        port = choose_port(self._options.port)
        program = self._runtime.start(self._make_contract(port))
        health = Health(
            make_probes(self._options, port, on_connect=self._activity.note_probe),
            self._options,
            on_change=self._mailbox.wake,
        )
        server = Server(program=program, health=health, port=port)
        self._progress.mark("started")
        logger.info("the server was started, to listen on port %d", port)
        health.start()
        self._note(server)
        return server

    def _note(self, server: Server, *, is_draining: bool = False) -> None:
        """Store whether the server is ready if that has changed, and its warnings."""
        if warning := server.program.observe():
            self._progress.warn(warning, about="memory")
            logger.warning("%s", warning)
        self._progress.warn(self._mailbox.announced, about="maintenance")
        is_ready = server.health.is_ready and not is_draining
        before = self._service
        if before is None or (before.port, before.is_ready) != (server.port, is_ready):
            self._service = Service(
                port=server.port,
                is_ready=is_ready,
                since=datetime.now(timezone.utc),
                restarts=len(self._ends),
            )
            if is_ready:
                self._became_ready()
            problem = "" if is_ready or is_draining else server.health.problem
            self._progress.warn(
                f"the server is not ready: {problem}" if problem and self._was_ready else "",
                about="readiness",
            )
            self._progress.serve(self._service)
            self._published_at = float("-inf")
        if time.monotonic() - self._published_at >= PUBLISH_EVERY:
            self._published_at = time.monotonic()
            self._publish()

    def _became_ready(self) -> None:
        if not self._was_ready:
            self._was_ready = True
            self._progress.mark(READY)
        self._progress.enter("serve")
        logger.info("the server is ready")

    def _is_idle(self, server: Server) -> bool:
        """Whether nobody has used the server for as long as the request says."""
        limit = self._options.idle_stop_seconds
        if not limit or not server.health.is_ready or not self._may_report():
            self._activity.renew()
            return False
        return self._activity.idle_seconds(server.port) >= limit

    def _stop_idle(self, server: Server) -> Outcome:
        self._progress.enter("drain")
        self._note(server, is_draining=True)
        self._end(server, timedelta(seconds=self._options.drain_seconds))
        server.program.kill()
        self._progress.mark("exited")
        return Outcome(
            kind=OutcomeKind.STOPPED,
            reason=f"{IDLE} {self._options.idle_stop_seconds} s",
            exit_code=server.program.exit_code,
        )

    def _after_end(self, server: Server) -> Outcome | None:
        """End what is left of a server, and wait for the time of the next start.

        Returns the outcome if this instance starts it no more.
        """
        verdict = server.health.verdict
        hint = self._hint(server)
        if server.program.exit_code is None:
            self._end(server, UNHEALTHY_GRACE)
        server.program.kill()
        self._note(server, is_draining=True)
        known = server.program.describe_exit()
        what = verdict or _how(known.code)
        if known.memory_problem:
            what = f"{what} ({known.memory_problem})"
        words = f": {known.last_words}" if known.last_words else ""
        logger.warning("%s", self._mask(what))
        now = time.monotonic()
        self._ends.append(now)
        if verdict and not self._was_ready:
            return self._failed(known.code or -signal.SIGTERM, f"{what}{hint}{words}")
        chance = _RANDOM.random()
        delay = restart_delay(self._ends, now=now, chance=chance, was_ready=self._was_ready)
        if delay is not None:
            self._pause(delay)
            return None
        minutes = WINDOW.total_seconds() / 60
        reason = f"the server ended {len(self._ends)} times, for the last time because {what}"
        if self._was_ready:
            reason = f"{reason}; at most {minutes:.0f} minutes apart"
        if known.code == 0 and not verdict:
            return Outcome(
                kind=OutcomeKind.COMPLETED, reason=self._mask(f"{reason}{words}"), exit_code=0
            )
        return self._failed(known.code or -signal.SIGTERM, f"{reason}{hint}{words}")

    def _failed(self, code: int, reason: str) -> Outcome:
        return failed_outcome(reason, mask=self._mask, exit_code=code)

    def _hint(self, server: Server) -> str:
        """Return what may be wrong with a server that does not listen where it should."""
        if self._was_ready or server.program.exit_code is not None:
            return ""
        others = sorted(ports_of_descendants() - {server.port})
        if not others:
            return ""
        listed = ", ".join(map(str, others))
        return f", but it listens on {listed}; give it the port of RUNCTL_PORT"

    def _pause(self, delay: timedelta) -> None:
        logger.info("the server starts again in %.1f s", delay.total_seconds())
        until = time.monotonic() + delay.total_seconds()
        while (left := until - time.monotonic()) > 0 and self._mailbox.ending is None:
            self._mailbox.wait(left)

    def _after_stop_request(self, server: Server) -> Outcome | None:
        """Serve until the replacement is ready, if there will be one; then answer what is left."""
        stop = self._mailbox.ending
        assert stop is not None
        self._progress.mark("detected", stop.detected)
        if stop.cause is StopCause.NOTICE and server.health.is_ready:
            self._await_replacement(server)
        self._progress.enter("drain")
        was_ready = server.health.is_ready
        self._note(server, is_draining=True)
        if was_ready and not self._replacement.is_ready():
            time.sleep(LEAVE.total_seconds())
        self._progress.mark("sigterm")
        self._end(server, timedelta(seconds=self._options.drain_seconds))
        has_exited = server.program.exit_code is not None
        server.program.kill()
        self._progress.mark("exited")
        logger.info("the server %s", "has exited" if has_exited else "was killed: no time left")
        return self._stopped(server)

    def _stopped(self, server: Server) -> Outcome | None:
        return outcome_of_stop(self._mailbox.ending, exit_code=server.program.exit_code, step=None)

    def _await_replacement(self, server: Server) -> None:
        """Wait until the next attempt's server is ready, and proxies have moved to it."""
        logger.info("serving until the replacement is ready")
        switched_at = float("inf")
        while not server.has_ended and time.monotonic() < min(switched_at, self._last_instant()):
            stop = self._mailbox.ending
            if stop is None or stop.cause is not StopCause.NOTICE:
                return
            if switched_at == float("inf") and self._replacement.is_ready():
                logger.info("the replacement is ready")
                self._progress.mark("replaced")
                switched_at = time.monotonic() + SWITCH.total_seconds()
            time.sleep(EXIT_POLL)
            self._note(server)

    def _last_instant(self) -> float:
        """Return the monotonic instant at which the drain has to begin."""
        stop = self._mailbox.ending
        deadline = None if stop is None else stop.deadline_at
        if deadline is None:
            return float("inf")
        reserved = LEAVE + RESERVE
        return deadline - self._options.drain_seconds - reserved.total_seconds()

    def _end(self, server: Server, grace: timedelta) -> None:
        """Send SIGTERM, and wait for the exit."""
        server.program.request_stop(before_a_kill=lambda: None)
        until = time.monotonic() + grace.total_seconds()
        while server.program.exit_code is None and time.monotonic() < until:
            stop = self._mailbox.ending
            left = None if stop is None else stop.time_left()
            if left is not None and left <= RESERVE:
                return
            server.program.end_waiting_leader()
            time.sleep(EXIT_POLL)


def _how(code: int) -> str:
    if code == 0:
        return "it exited with 0, and a server is not expected to"
    return f"it exited with code {code}" if code > 0 else f"signal {-code} ended it"
