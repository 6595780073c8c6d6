"""The drain: SIGTERM the trainer, wait its grace, SIGKILL what is left, save what is whole."""

import logging
import time
from datetime import timedelta

from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.stopping import Stopping
from runctl.agent.runtime.trainer import Trainer
from runctl.agent.saving.folder_watcher import FolderWatcher
from runctl.agent.saving.saver import CheckpointSaver
from runctl.agent.signals.mailbox import Mailbox
from runctl.fault_points import reach

MAX_GRACE = timedelta(seconds=90)
RESERVE = timedelta(seconds=5)
EXIT_POLL = 0.02
MEASURE_EVERY = 1.0
# Without a deadline nobody waits for us but a person.
UNHURRIED = timedelta(minutes=10)

logger = logging.getLogger(__name__)


def grace_of(*, asked: timedelta, upload_time: timedelta, left: timedelta | None) -> timedelta:
    """Return how long the trainer may take to save after SIGTERM.

    The least of what was asked, 90 s, and the time left less the measured upload time less 5 s.
    """
    grace = min(asked, MAX_GRACE)
    if left is not None:
        grace = min(grace, left - upload_time - RESERVE)
    return max(grace, timedelta(0))


def drain(
    trainer: Trainer,
    watcher: FolderWatcher,
    saver: CheckpointSaver,
    mailbox: Mailbox,
    *,
    grace: timedelta,
    progress: Progress,
) -> None:
    """End the trainer and commit what it left, if that is whole."""
    reach("drain.begun")
    progress.enter("drain")
    watcher.hurry()
    progress.mark("sigterm")
    stopping = Stopping(trainer.pid, watcher.folder)
    stopping.send(before_a_kill=watcher.hold)
    reach("drain.sigterm_sent")
    until = time.monotonic() + grace.total_seconds()
    upload_time, measured_at = timedelta(0), float("-inf")
    while time.monotonic() < until and not mailbox.is_fenced:
        if not stopping.is_waiting(leader_runs=trainer.is_running()):
            break
        # Measuring walks through the whole folder, which the trainer is busy writing to.
        if time.monotonic() - measured_at >= MEASURE_EVERY:
            upload_time, measured_at = saver.expected_upload_time(), time.monotonic()
        # A deadline may become known only now: the user stopped a machine that EC2 then takes.
        if time.monotonic() >= _too_late(mailbox) - (upload_time + RESERVE).total_seconds():
            break
        time.sleep(EXIT_POLL)
    exited = not trainer.is_running()
    unfinished = stopping.unfinished
    killed = trainer.end_family(watcher.folder)
    reach("drain.trainer_ended")
    progress.mark("exited")
    logger.info(
        "the trainer %s", f"exited with {trainer.exit_code}" if exited else "was killed: no grace"
    )
    if mailbox.is_fenced:
        saver.abandon()
        return
    if unfinished or killed.torn:
        progress.note_saving(missed_grace=grace)
        logger.warning("the final save did not finish within %.0f s", grace.total_seconds())
    progress.enter("upload")
    saver.finish(
        until=_too_late(mailbox),
        torn=stopping.torn | killed.torn,
        abrupt=stopping.ended_abruptly(killed) or trainer.died_of_a_fault(),
    )
    reach("drain.saved")


def _too_late(mailbox: Mailbox) -> float:
    ending = mailbox.ending
    at = None if ending is None else ending.deadline_at
    if at is None:
        return time.monotonic() + UNHURRIED.total_seconds()
    return at
