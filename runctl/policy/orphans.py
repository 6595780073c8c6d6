"""Orphans in an account, besides machines and fleets: pure decisions of the doctor."""

from collections.abc import Iterable, Sequence, Set
from datetime import datetime, timedelta

from runctl.model.leftovers import Disk, UnfinishedUpload
from runctl.model.machine import Machine
from runctl.model.run import Attempt, Run

# A save or an upload may take hours over a slow line, and its owner relies on it.
A_DAY = timedelta(hours=24)
# A volume is created just before it is attached, and detached just before it is deleted.
TRANSITION_TIME = timedelta(hours=1)
# An agent heard from this recently may still be saving, even if its run has ended in the ledger.
MAX_SAVE_AFTER_END = timedelta(minutes=30)


def has_live_attempt(run: Run, attempts: Sequence[Attempt], *, now: datetime) -> bool:
    """Return whether any attempt may still be writing what belongs to the run."""
    if run.ended is None or run.ended_at is None or now - run.ended_at < MAX_SAVE_AFTER_END:
        return True
    return any(
        attempt.ended is None
        or (attempt.heartbeat_at is not None and now - attempt.heartbeat_at < MAX_SAVE_AFTER_END)
        for attempt in attempts
    )


def orphaned_disks(disks: Iterable[Disk], *, now: datetime) -> list[Disk]:
    """Return the volumes that are unattached, and not just in transition.

    Volumes are deleted with their instances by the launch template; one that is left was detached
    by hand, or comes from an image with its own settings.
    """
    return [
        disk
        for disk in disks
        if disk.state == "available" and now - disk.created_at >= TRANSITION_TIME
    ]


def may_delete(disk: Disk, run: Run | None, attempts: Sequence[Attempt], *, now: datetime) -> bool:
    """Return whether an unattached volume may be deleted: only one of an ended run of ours.

    A run that our ledger does not know may belong to another deployment.
    """
    if run is None or has_live_attempt(run, attempts, now=now):
        return False
    return now - disk.created_at >= A_DAY


def orphaned_uploads(
    uploads: Iterable[UnfinishedUpload], *, live_runs: Set[str], now: datetime
) -> list[UnfinishedUpload]:
    """Return the multipart uploads that nothing can be about to finish."""
    return [
        upload
        for upload in uploads
        if now - upload.begun_at >= A_DAY and upload.run_id not in live_runs
    ]


def is_stopped(machine: Machine) -> bool:
    """Return whether the machine is idle: ours are terminated, never stopped."""
    return machine.state == "stopped"
