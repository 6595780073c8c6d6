"""Starting a command as another user. The agent, which is root, runs this file as a script.

Started with `-I -S` and a clean environment, so that no variable of the command, such as
LD_PRELOAD, takes effect while it is still root.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

NO_NEW_PRIVILEGES = 38  # of linux/prctl.h
# If memory runs out, the kernel should kill the command and not the agent.
OOM_SCORE = 500
# From where the command gets its variables: from standard input, or this process's own.
FROM_INPUT, OWN = "input", "own"
NOT_FOUND = 127


def switch_to(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Take on the numbers of a user and its groups."""
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def forbid_privileges() -> None:
    """Keep this process, and all that it starts, from gaining any: sudo and setuid have no effect.

    Raises OSError if the kernel refuses that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def main(words: Sequence[str]) -> int:
    """Start `words[4:]` with the uid, the gid and the groups in `words`; return only on failure."""
    uid, gid, groups, source, *command = words
    environment = dict(os.environb)
    if source == FROM_INPUT:
        with open(0, "rb") as stream:
            environment = _read_variables(stream.read())
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)  # the next standard input
    _prepare_limits()
    switch_to(int(uid), int(gid), [int(group) for group in groups.split(",") if group])
    forbid_privileges()
    # Python ignores both, and a command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is wanted
    except OSError as exc:
        print(f"{command[0]!r} cannot be started: {exc.strerror}", file=sys.stderr)
    return NOT_FOUND


def _read_variables(text: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b"=") for line in text.split(b"\0") if line)
    return {name: value for name, _, value in pairs}


def _prepare_limits() -> None:
    """Set what root is exempt from, or would be killed for last."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    # RDMA locks the memory that the network adapter reaches; threads count for all of a user's.
    for which in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_NPROC):
        with contextlib.suppress(OSError, ValueError):  # not in a container without the right
            resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
