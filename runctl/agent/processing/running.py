"""The calls of the script for a shard, by one of the workers of a session."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runctl.agent.drain import grace_of
from runctl.agent.instance.disk import is_full, room
from runctl.agent.processing.halt import Halt
from runctl.agent.processing.shard_folder import ShardFolder
from runctl.agent.program_outcome import ENDED_BY_OTHERS, EndedProgram, outcome_of_exit
from runctl.agent.runtime.ports import Contract, Program, Runtime
from runctl.agent.signals.mailbox import StopCause
from runctl.model.outcome import OutcomeKind

OBSERVE_SECONDS = 1.0
EXIT_POLL = 0.05
# Before a script that has failed is called again, so that what it needs may recover.
RETRY_SECONDS = 1.0
# The time of a notice that is kept for the checkpoint folders of interrupted shards.
UPLOAD_TIME = timedelta(seconds=10)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Call:
    """The end of one call of the script: `reason` says why it failed, None if it was interrupted.

    It is empty if the script has exited with 0 by itself.
    """

    reason: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Processed:
    """The end of a shard on a worker, after `tries` calls; `reason` as in `Call`."""

    reason: str | None
    seconds: float
    tries: int


class ShardRunner:
    """One worker: it calls the script for one shard at a time."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        contract_of: Callable[[ShardFolder], Contract],
        retries: int,
        grace: timedelta,
        state: Path,
        halt: Halt,
        mask: Callable[[str], str],
        warn: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._contract_of = contract_of
        self._retries = retries
        self._grace = grace
        self._state = state
        self._halt = halt
        self._mask = mask
        self._warn = warn

    def process(self, place: ShardFolder) -> Processed:
        """Call the script until it succeeds, the session has to end, or it failed too often."""
        tries = 0
        while True:
            tries += 1
            call = self._call(place)
            is_last = not call.reason or tries > self._retries or self._halt.is_set
            if call.reason:
                logger.warning(
                    "shard %d failed (try %d of %d): %s",
                    place.number,
                    tries,
                    self._retries + 1,
                    call.reason,
                )
            if is_last:
                is_cut_off = self._halt.is_set and tries <= self._retries
                reason = None if call.reason and is_cut_off else call.reason
                return Processed(reason=reason, seconds=call.seconds, tries=tries)
            place.clear_outputs()
            if tries > 1:  # it may die of what it has saved
                place.clear_checkpoint()
            self._halt.wait(RETRY_SECONDS)

    def _call(self, place: ShardFolder) -> Call:
        began = time.monotonic()
        if self._halt.is_set:
            return Call(reason=None, seconds=0.0)
        program = self._runtime.start(self._contract_of(place))
        try:
            has_ended = self._await_exit(program)
            if not has_ended:
                self._stop(program)
                return Call(reason=None, seconds=time.monotonic() - began)
            if program.exit_code in ENDED_BY_OTHERS:
                # A shutdown's SIGTERM may reach the script a moment before the agent knows of it.
                self._halt.wait(OBSERVE_SECONDS)
            background = program.background_process()
            program.kill()
            return Call(
                reason=self._judge(program, background), seconds=program.lived.total_seconds()
            )
        finally:
            program.close()

    def _await_exit(self, program: Program) -> bool:
        """Wait for the exit; False if the session has to end before."""
        observed = float("-inf")
        while program.exit_code is None:
            if self._halt.is_set:
                return False
            if time.monotonic() - observed >= OBSERVE_SECONDS:
                observed = time.monotonic()
                if warning := program.observe():
                    self._warn(warning)
            self._halt.wait(OBSERVE_SECONDS, unless=lambda: program.exit_code is not None)
        return True

    def _stop(self, program: Program) -> None:
        """Ask the script to save and end, and kill it when its time is up."""
        stop = self._halt.stop
        if stop is not None and stop.cause is not StopCause.FENCED:
            grace = grace_of(asked=self._grace, upload_time=UPLOAD_TIME, left=stop.time_left())
            until = time.monotonic() + grace.total_seconds()
            program.request_stop(before_a_kill=lambda: None)
            while time.monotonic() < until and program.is_busy():
                time.sleep(EXIT_POLL)
        program.kill()

    def _judge(self, program: Program, background: str) -> str | None:
        stop = self._halt.stop
        is_disk_full = is_full(self._state)
        hint = f"the instance's disk is full, {room(self._state)}" if is_disk_full else ""
        outcome = outcome_of_exit(
            EndedProgram(
                exit=program.describe_exit(),
                background=background,
                hints=(hint,) if hint else (),
                stop=stop,
                is_disk_full=is_disk_full,
            ),
            mask=self._mask,
        )
        if outcome is None:
            return None
        if outcome.kind is OutcomeKind.COMPLETED:
            return ""
        if outcome.kind is OutcomeKind.FAILED or stop is None:
            return outcome.reason or "it was interrupted"
        return None
