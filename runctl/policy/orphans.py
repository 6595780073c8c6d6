"""What in an account is nobody's, besides machines and fleets: pure decisions of the doctor."""

from collections.abc import Iterable, Sequence, Set
from datetime import datetime, timedelta

from runctl.model.leftovers import Disk, UnfinishedUpload
from runctl.model.machine import Machine
from runctl.model.run import Attempt, Run

# A save or an upload may take hours over a slow line, and whoever began it counts on it.
A_DAY = timedelta(hours=24)
# A volume is made a moment before it is attached, and detached a moment before it goes.
BETWEEN = timedelta(hours=1)
# Whoever was heard of so lately may still be saving, whatever the ledger says of its end.
QUIET = timedelta(minutes=30)


def has_live_attempt(run: Run, attempts: Sequence[Attempt], *, now: datetime) -> bool:
    """Whether anybody may still be writing what belongs to the run."""
    if run.ended is None or run.ended_at is None or now - run.ended_at < QUIET:
        return True
    return any(
        attempt.ended is None
        or (attempt.heartbeat_at is not None and now - attempt.heartbeat_at < QUIET)
        for attempt in attempts
    )


def orphaned_disks(disks: Iterable[Disk], *, now: datetime) -> list[Disk]:
    """Return the volumes that are attached to nothing, and not just on their way to be.

    They go with their instances by the launch template; one that stayed was detached by hand, or is
    of an image whose own template says otherwise.
    """
    return [
        disk for disk in disks if disk.state == "available" and now - disk.created_at >= BETWEEN
    ]


def may_delete(disk: Disk, run: Run | None, attempts: Sequence[Attempt], *, now: datetime) -> bool:
    """Whether a volume that is attached to nothing may go: one of a run of ours that is over.

    A run that our ledger does not know may be that of a deployment beside this one.
    """
    if run is None or has_live_attempt(run, attempts, now=now):
        return False
    return now - disk.created_at >= A_DAY


def orphaned_uploads(
    uploads: Iterable[UnfinishedUpload], *, live_runs: Set[str], now: datetime
) -> list[UnfinishedUpload]:
    """Return the multipart uploads that nobody can be about to finish."""
    return [
        upload
        for upload in uploads
        if now - upload.begun_at >= A_DAY and upload.run_id not in live_runs
    ]


def is_stopped(machine: Machine) -> bool:
    """Whether the machine costs its disk and does nothing: ours are terminated, never stopped."""
    return machine.state == "stopped"
