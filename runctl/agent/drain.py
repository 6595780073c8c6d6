"""The drain: request a stop, wait for the grace period, kill what is left, save what is whole."""

import logging
import time
from datetime import timedelta

from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Program
from runctl.agent.saving.folder_watcher import FolderWatcher
from runctl.agent.saving.saver import CheckpointSaver
from runctl.agent.signals.mailbox import Mailbox
from runctl.fault_points import reach

MAX_GRACE = timedelta(seconds=90)
RESERVE = timedelta(seconds=5)
EXIT_POLL = 0.02
MEASURE_EVERY = 1.0
# Without a deadline only a person is waiting.
UNHURRIED = timedelta(minutes=10)

logger = logging.getLogger(__name__)


def grace_of(*, asked: timedelta, upload_time: timedelta, left: timedelta | None) -> timedelta:
    """Return how long the trainer may take to save after SIGTERM.

    That is the minimum of the time in the request, of 90 s, and of the time that is left after
    subtracting the expected upload time and 5 s.
    """
    grace = min(asked, MAX_GRACE)
    if left is not None:
        grace = min(grace, left - upload_time - RESERVE)
    return max(grace, timedelta(0))


def drain(
    program: Program,
    watcher: FolderWatcher,
    saver: CheckpointSaver,
    mailbox: Mailbox,
    *,
    grace: timedelta,
    progress: Progress,
) -> None:
    """End the program and commit what it left, if that is whole."""
    reach("drain.begun")
    progress.enter("drain")
    watcher.hurry()
    progress.mark("sigterm")
    program.request_stop(before_a_kill=watcher.hold)
    reach("drain.sigterm_sent")
    _await_end(program, saver, mailbox, until=time.monotonic() + grace.total_seconds())
    has_exited = program.exit_code is not None
    killed = program.kill()
    reach("drain.trainer_ended")
    progress.mark("exited")
    if has_exited:
        said = f"exited with {program.exit_code}"
    elif killed.missed_grace:
        said = "was killed: no grace left"
    else:
        said = "was killed"
    logger.info("the trainer %s", said)
    if mailbox.is_fenced:
        saver.abandon()
        return
    if killed.missed_grace:
        progress.note_saving(missed_grace=grace)
        logger.warning("the final save did not finish within %.0f s", grace.total_seconds())
    progress.enter("upload")
    saver.finish(until=_end_of_upload(mailbox), torn=killed.torn, abrupt=killed.is_abrupt)
    reach("drain.saved")


def _await_end(program: Program, saver: CheckpointSaver, mailbox: Mailbox, *, until: float) -> None:
    """Wait until the program has ended, or has to be killed for its save to be uploaded in time."""
    upload_time, measured_at = timedelta(0), float("-inf")
    while time.monotonic() < until and not mailbox.is_fenced and program.is_busy():
        # Measuring walks through the whole folder, which the trainer is busy writing to.
        if time.monotonic() - measured_at >= MEASURE_EVERY:
            upload_time, measured_at = saver.expected_upload_time(), time.monotonic()
        stop = mailbox.ending
        if stop is not None and stop.is_overdue:
            return
        # A deadline may become known only now: EC2 may take a machine that a user has stopped.
        if time.monotonic() >= _end_of_upload(mailbox) - (upload_time + RESERVE).total_seconds():
            return
        time.sleep(EXIT_POLL)


def _end_of_upload(mailbox: Mailbox) -> float:
    """Return the monotonic instant at which it is too late for an upload."""
    stop = mailbox.ending
    deadline = None if stop is None else stop.deadline_at
    return time.monotonic() + UNHURRIED.total_seconds() if deadline is None else deadline
