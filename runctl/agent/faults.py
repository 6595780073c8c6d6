"""Fault points: named instants at which a test kills or stops the agent, by name and not by luck.

Without RUNCTL_FAULT_POINT or RUNCTL_HOLD_POINT in the agent's environment they do nothing.
"""

import os
import signal
import threading
from collections import Counter

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
HOLD = "RUNCTL_HOLD_POINT"

_passed: Counter[signal.Signals] = Counter()
_lock = threading.Lock()


def reach(point: str) -> None:
    """Pass a fault point: SIGKILL this process, or SIGSTOP it, if the environment names the point.

    `save.parts_stored:3` means the third time that it is passed.
    """
    for variable, how in ((VARIABLE, signal.SIGKILL), (HOLD, signal.SIGSTOP)):
        if wanted := os.environ.get(variable):
            _act(point, wanted, how)


def _act(point: str, wanted: str, how: signal.Signals) -> None:
    name, _, count = wanted.partition(":")
    if name != point:
        return
    with _lock:
        _passed[how] += 1
        if _passed[how] == int(count or 1):
            os.kill(os.getpid(), how)
