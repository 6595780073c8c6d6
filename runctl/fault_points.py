"""Fault points: named places where a test kills, stops or hangs the agent.

Without RUNCTL_FAULT_POINT, RUNCTL_HOLD_POINT or RUNCTL_HANG_POINT in the agent's environment they
do nothing.
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
# What a node of rank 1 or higher passes after its parts are stored.
NODE = ("save.node_manifest_stored",)
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
FALLBACK = ("fallback.marked",)
VARIABLE = "RUNCTL_FAULT_POINT"
HOLD = "RUNCTL_HOLD_POINT"
HANG = "RUNCTL_HANG_POINT"

_passed: Counter[str] = Counter()
_lock = threading.Lock()


def reach(point: str) -> None:
    """Pass a fault point; if the environment names it, kill, stop or hang.

    RUNCTL_FAULT_POINT sends SIGKILL to this process, RUNCTL_HOLD_POINT sends SIGSTOP; with
    RUNCTL_HANG_POINT this thread hangs, while the others continue. `save.parts_stored:3` means the
    third time that it is passed.
    """
    if _is_wanted(VARIABLE, point):
        os.kill(os.getpid(), signal.SIGKILL)
    if _is_wanted(HOLD, point):
        os.kill(os.getpid(), signal.SIGSTOP)
    if _is_wanted(HANG, point):
        threading.Event().wait()


def _is_wanted(variable: str, point: str) -> bool:
    name, _, count = os.environ.get(variable, "").partition(":")
    if name != point:
        return False
    with _lock:
        _passed[variable] += 1
        return _passed[variable] == int(count or 1)
