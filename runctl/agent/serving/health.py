"""The health of a running server, which a thread of its own finds out by probes."""

import threading
import time
from collections.abc import Callable

from runctl.agent.serving.probe import Probes
from runctl.model.serving_options import ServingOptions


class Health:
    """Probes one server from its start to its end.

    Until the startup probe succeeds, nothing else is asked. `on_change` is called when the server
    becomes ready or not ready, and when it is to be ended.
    """

    def __init__(
        self, probes: Probes, options: ServingOptions, *, on_change: Callable[[], None]
    ) -> None:
        self._probes = probes
        self._options = options
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._is_ready = False
        self._problem = ""
        self._verdict = ""

    def start(self) -> None:
        """Begin to probe."""
        self._thread.start()

    def stop(self) -> None:
        """Stop probing. A probe that is under way ends by itself."""
        self._stop.set()

    @property
    def is_ready(self) -> bool:
        """Whether the server may get requests."""
        return self._is_ready

    @property
    def problem(self) -> str:
        """What the last probe found, empty if it succeeded."""
        return self._problem

    @property
    def verdict(self) -> str:
        """Why the server is to be ended, empty while it is not."""
        return self._verdict

    def _run(self) -> None:
        if self._await_startup():
            self._set_ready(is_ready=True)
            self._watch()

    def _await_startup(self) -> bool:
        options = self._options
        until = time.monotonic() + options.startup_seconds
        while not self._stop.is_set():
            self._problem = self._probes.startup.check()
            if not self._problem:
                return True
            left = until - time.monotonic()
            if left <= 0:
                self._end(
                    f"the server was not ready within {options.startup_seconds} s ({self._problem})"
                )
                return False
            self._stop.wait(min(left, options.startup.period_seconds))
        return False

    def _watch(self) -> None:
        readiness, liveness = self._options.readiness, self._options.liveness
        unready = dead = 0
        readiness_at = time.monotonic() + readiness.period_seconds
        liveness_at = time.monotonic() + liveness.period_seconds
        while not self._stop.wait(max(0.0, min(readiness_at, liveness_at) - time.monotonic())):
            if time.monotonic() >= readiness_at:
                readiness_at = time.monotonic() + readiness.period_seconds
                problem = self._probes.readiness.check()
                unready = unready + 1 if problem else 0
                self._problem = problem
                if not problem:
                    self._set_ready(is_ready=True)
                elif unready >= readiness.failures:
                    self._set_ready(is_ready=False)
            if time.monotonic() >= liveness_at:
                liveness_at = time.monotonic() + liveness.period_seconds
                problem = self._probes.liveness.check()
                dead = dead + 1 if problem else 0
                if dead >= liveness.failures:
                    self._end(f"the server failed {dead} probes in a row ({problem})")
                    return

    def _set_ready(self, *, is_ready: bool) -> None:
        if is_ready != self._is_ready and not self._stop.is_set():
            self._is_ready = is_ready
            self._on_change()

    def _end(self, verdict: str) -> None:
        if not self._stop.is_set():
            self._is_ready, self._verdict = False, verdict
            self._on_change()
