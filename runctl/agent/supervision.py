"""The supervision of a session, from the start of its program to the attempt's outcome."""

import logging
import time
from collections.abc import Callable

from runctl.agent.drain import RESERVE, drain, grace_of
from runctl.agent.instance.disk import is_full, room
from runctl.agent.instance.paths import Paths
from runctl.agent.prepare.code import explain_missing_file
from runctl.agent.program_outcome import (
    ENDED_BY_OTHERS,
    FINAL_UPLOAD,
    EndedProgram,
    outcome_of_exit,
    outcome_of_stop,
)
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Killed, ProgramExit
from runctl.agent.session import TrainingSession
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.waiting import CHECK
from runctl.model.outcome import Outcome

POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)


class Supervision:
    """Waits until a session's program exits or has to stop, whichever is first, and saves last.

    `has_other_cause` says, after a failure, that the machine is to blame and not the checkpoint:
    its disk is full, or memory ran out.
    """

    def __init__(
        self,
        session: TrainingSession,
        *,
        paths: Paths,
        mailbox: Mailbox,
        progress: Progress,
        upload_outputs: Callable[[float], str],
        mask: Callable[[str], str],
    ) -> None:
        self._session = session
        self._program = session.program
        self._paths = paths
        self._mailbox = mailbox
        self._progress = progress
        self._upload_outputs = upload_outputs
        self._mask = mask
        self.has_other_cause = False

    def run(self) -> Outcome | None:
        """Supervise the session to its end; return None if a later attempt owns the run."""
        self._observe()
        while self._program.exit_code is None and self._mailbox.ending is None:
            self._mailbox.wait(CHECK.total_seconds())
            self._observe()
            if self._mailbox.take_checkpoint_request():
                self._session.ask_for_checkpoint()
            self._session.check_schedule()
            self._progress.warn(self._mailbox.announced, about="maintenance")
        stop = self._mailbox.ending
        if self._program.exit_code is None and stop is not None:
            return self._after_stop_request(stop)
        return self._after_exit()

    def _observe(self) -> None:
        if warning := self._program.observe():
            self._progress.warn(warning, about="memory")
            logger.warning("%s", warning)

    def _after_exit(self) -> Outcome | None:
        """Save and upload what the program left, and judge its exit."""
        program, session = self._program, self._session
        self._progress.mark("exited")
        logger.info("the trainer exited by itself with %s", program.exit_code)
        until = time.monotonic() + FINAL_UPLOAD.total_seconds()
        while program.is_busy() and not self._is_too_late(until):
            time.sleep(POLL_SECONDS)
        background = program.background_process()
        killed = program.kill()
        self._progress.enter("upload")
        if program.exit_code in ENDED_BY_OTHERS:
            # A shutdown's SIGTERM may reach the trainer a moment before the agent knows of it.
            self._mailbox.wait(CHECK.total_seconds())
        until = self._end_of_upload()
        is_saved = session.saver.finish(until=until, torn=killed.torn, abrupt=killed.is_abrupt)
        if self._mailbox.is_fenced:
            return None
        outputs_problem = self._upload_outputs(until)
        ended = self._ended_program(
            killed, background=background, is_saved=is_saved, outputs_problem=outputs_problem
        )
        return outcome_of_exit(ended, mask=self._mask)

    def _is_too_late(self, until: float) -> bool:
        """Whether to stop waiting for what the program left running."""
        if self._mailbox.is_fenced or time.monotonic() >= until:
            return True
        stop = self._mailbox.ending
        if stop is not None and stop.is_overdue:
            return True
        left = None if stop is None else stop.time_left()
        return left is not None and left <= RESERVE + self._session.saver.expected_upload_time()

    def _end_of_upload(self) -> float:
        until = time.monotonic() + FINAL_UPLOAD.total_seconds()
        stop = self._mailbox.ending
        deadline = None if stop is None else stop.deadline_at
        return until if deadline is None else min(until, deadline)

    def _ended_program(
        self, killed: Killed, *, background: str, is_saved: bool, outputs_problem: str
    ) -> EndedProgram:
        known = self._program.describe_exit()
        is_disk_full = is_full(self._paths.state)
        self.has_other_cause = is_disk_full or bool(known.memory_problem)
        return EndedProgram(
            exit=known,
            step=self._session.committer.step,
            background=background,
            torn=killed.torn,
            is_saved=is_saved,
            outputs_problem=outputs_problem,
            hints=self._hints(known, is_disk_full=is_disk_full),
            helper_saw_sigterm=self._session.was_asked_to_stop,
            stop=self._mailbox.ending,
            is_disk_full=is_disk_full,
        )

    def _hints(self, known: ProgramExit, *, is_disk_full: bool) -> tuple[str, ...]:
        """Return likely causes of a failure."""
        disk = f"the instance's disk is full, {room(self._paths.state)}" if is_disk_full else ""
        missing = explain_missing_file(known.last_words, self._paths.project)
        return tuple(filter(None, (disk, missing)))

    def _after_stop_request(self, stop: StopRequest) -> Outcome | None:
        """Stop the program, and save what it leaves in the time that there is."""
        program, session = self._program, self._session
        self._progress.mark("detected", stop.detected)
        if stop.cause is StopCause.FENCED:
            logger.info("ending without a save or a report: %s", stop.reason)
            session.saver.abandon()
            program.kill()
            return None
        grace = grace_of(
            asked=session.grace,
            upload_time=session.saver.expected_upload_time(),
            left=stop.time_left(),
        )
        drain(
            program,
            session.watcher,
            session.saver,
            self._mailbox,
            grace=grace,
            progress=self._progress,
        )
        return outcome_of_stop(
            self._mailbox.ending, exit_code=program.exit_code, step=session.committer.step
        )
