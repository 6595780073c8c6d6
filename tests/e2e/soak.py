"""Interruptions of every kind at random moments, one after another."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from runctl.local.client import LocalCloudError
from runctl.model.run import Attempt, AttemptStage
from tests.e2e.testbed import Testbed, wait_for

WAIT_TIMEOUT = timedelta(seconds=60)


@dataclass
class Soak:
    """Interrupts a run; a seed fixes the choice of kinds and pauses, not the machine's speed."""

    testbed: Testbed
    run_id: str
    dice: random.Random
    last: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def interrupt_once(self) -> None:
        """Wait until the newest attempt has saved something, then interrupt in a random way."""
        kinds: dict[str, Callable[[Attempt], None]] = {
            "notice": self._notice,
            "short notice": self._short_notice,
            "no notice": self._no_notice,
            "in the boot": self._in_the_boot,
            "in the drain": self._in_the_drain,
            "the replacement": self._the_replacement,
            "both at once": self._both_at_once,
        }
        # Each kind once before any of them a second time.
        least = min(self.done[kind] for kind in kinds)
        kind = self.dice.choice([name for name in kinds if self.done[name] == least])
        attempt = self._wait(self._newest_that_saved, "a checkpoint of the newest attempt")
        self._pause(0.6)
        kinds[kind](attempt)
        self.last = attempt.number
        self.done[kind] += 1

    def _notice(self, attempt: Attempt) -> None:
        self._take(attempt.instance_ids[0], notice=True, notice_seconds=20)

    def _short_notice(self, attempt: Attempt) -> None:
        seconds = self.dice.uniform(0.1, 3)
        self._take(attempt.instance_ids[0], notice=True, notice_seconds=seconds)

    def _no_notice(self, attempt: Attempt) -> None:
        self._take(attempt.instance_ids[0], notice=False)

    def _take(self, instance_id: str, **how: object) -> None:
        # The last interruption may have hit it already, without the ledger knowing yet.
        with contextlib.suppress(LocalCloudError):
            self.testbed.cloud.interrupt(instance_id, **how)

    def _in_the_boot(self, attempt: Attempt) -> None:
        """Take the next machine while it boots, prepares or restores."""
        self._no_notice(attempt)
        self._take_next(attempt, pause=2.0)

    def _in_the_drain(self, attempt: Attempt) -> None:
        self._notice(attempt)
        self._pause(0.5)
        self._no_notice(attempt)

    def _the_replacement(self, attempt: Attempt) -> None:
        self._notice(attempt)
        self._take_next(attempt, pause=0.5)

    def _both_at_once(self, attempt: Attempt) -> None:
        self._notice(attempt)
        self._take_next(attempt, pause=0.2)
        self._no_notice(attempt)

    def _take_next(self, attempt: Attempt, *, pause: float) -> None:
        instance_id = self.testbed.wait_for_launch(self.run_id, attempt=attempt.number + 1)
        self._pause(pause)
        self._take(instance_id, notice=False)

    def _newest_that_saved(self) -> Attempt | None:
        """Return the running attempt, once it has committed something of its own."""
        attempts = self.testbed.attempts(self.run_id)
        training = [attempt for attempt in attempts if attempt.stage is AttemptStage.RUNNING]
        run = self.testbed.run(self.run_id)
        if not training or training[-1].number <= self.last or run.committed_at is None:
            return None
        newest = training[-1]
        assert newest.running_at is not None
        return newest if run.committed_at > newest.running_at else None

    def _wait(self, check: Callable, what: str):
        def look_at_a_live_run():
            ended = self.testbed.run(self.run_id).ended
            assert ended is None, f"the run ended as {ended}: {self.testbed.story(self.run_id)}"
            return check()

        try:
            return wait_for(look_at_a_live_run, what, timeout=WAIT_TIMEOUT)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}: {self.testbed.story(self.run_id)}") from exc

    def _pause(self, longest: float) -> None:
        # Random moments are the point of this test.
        time.sleep(self.dice.uniform(0, longest))
