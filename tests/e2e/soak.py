"""Interruptions at random moments, of every kind, one after another."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from runctl.model.run import Attempt, AttemptStage
from tests.e2e.stage import Stage, wait_for

PATIENCE = timedelta(seconds=60)


@dataclass
class Soak:
    """Interrupts a run; a seed repeats the choice of kinds and pauses, not the machine's pace."""

    stage: Stage
    run_id: str
    dice: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def interrupt_once(self) -> None:
        """Interrupt in a random way, then wait until the run has got ahead again.

        Three attempts in a row without a new checkpoint end a run, rightly; so every second blow
        falls on an attempt that has saved something.
        """
        kinds: dict[str, Callable[[Attempt], None]] = {
            "notice": self._notice,
            "short notice": self._short_notice,
            "no notice": self._no_notice,
            "in the boot": self._in_the_boot,
            "in the drain": self._in_the_drain,
            "the replacement": self._the_replacement,
            "both at once": self._both_at_once,
        }
        # Each kind once before any a second time.
        least = min(self.done[kind] for kind in kinds)
        kind = self.dice.choice([one for one in kinds if self.done[one] == least])
        attempt = self._newest_in_training()
        before = self.stage.run(self.run_id).step
        self._pause(0.6)
        kinds[kind](attempt)
        self.done[kind] += 1
        self._wait(
            lambda: (
                self._newest_in_training().number > attempt.number and self._step() > (before or 0)
            ),
            f"a step after {kind}",
        )

    def _notice(self, attempt: Attempt) -> None:
        self.stage.cloud.interrupt(attempt.instance_ids[0], notice=True, notice_seconds=20)

    def _short_notice(self, attempt: Attempt) -> None:
        seconds = self.dice.uniform(0.1, 3)
        self.stage.cloud.interrupt(attempt.instance_ids[0], notice=True, notice_seconds=seconds)

    def _no_notice(self, attempt: Attempt) -> None:
        self.stage.cloud.interrupt(attempt.instance_ids[0], notice=False)

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
        instance_id = self.stage.wait_for_launch(self.run_id, attempt=attempt.number + 1)
        self._pause(pause)
        self.stage.cloud.interrupt(instance_id, notice=False)

    def _newest_in_training(self) -> Attempt:
        def look() -> Attempt | None:
            training = [
                one
                for one in self.stage.attempts(self.run_id)
                if one.stage is AttemptStage.TRAINING and "started" in one.timeline
            ]
            return training[-1] if training else None

        return self._wait(look, "an attempt that trains")

    def _step(self) -> int:
        return self.stage.run(self.run_id).step or 0

    def _wait(self, look: Callable, what: str):
        def look_at_a_live_run():
            ended = self.stage.run(self.run_id).ended
            assert ended is None, f"the run ended as {ended}: {self.stage.story(self.run_id)}"
            return look()

        try:
            return wait_for(look_at_a_live_run, what, timeout=PATIENCE)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}: {self.stage.story(self.run_id)}") from exc

    def _pause(self, longest: float) -> None:
        # A random moment is what this is about.
        time.sleep(self.dice.uniform(0, longest))
