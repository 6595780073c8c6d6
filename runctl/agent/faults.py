"""Fault points: named instants at which a test kills the agent, found by name and not by luck.

Without RUNCTL_FAULT_POINT in the agent's environment they do nothing.
"""

import os
import signal
import threading

# In the order in which a save, a restore and a drain pass them.
SAVE = (
    "save.pinned",
    "save.first_part_stored",
    "save.parts_stored",
    "save.manifest_stored",
    "save.committed",
    "save.old_manifest_removed",
    "save.old_parts_removed",
)
RESTORE = (
    "restore.manifest_read",
    "restore.first_part_fetched",
    "restore.fetched",
    "restore.folder_cleared",
    "restore.first_file_placed",
    "restore.placed",
)
DRAIN = (
    "drain.begun",
    "drain.sigterm_sent",
    "drain.trainer_ended",
    "drain.saved",
    "drain.reported",
)
VARIABLE = "RUNCTL_FAULT_POINT"

_passed = 0
_lock = threading.Lock()


def reach(point: str) -> None:
    """Pass a fault point: SIGKILL this process if the environment names it.

    `save.parts_stored:3` means the third time that it is passed.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name != point:
        return
    global _passed
    with _lock:
        _passed += 1
        if _passed == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
