"""Starting a command as another user. The agent, which is root, runs this file as a script.

Started with `-I -S` and a clean environment, so that no variable of the command, such as
LD_PRELOAD, takes effect while it is still root.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

NO_NEW_PRIVILEGES = 38  # of linux/prctl.h
# If memory runs out, the kernel should kill the command and not the agent.
OOM_SCORE = 500
# From where the command gets its variables: from standard input, or this process's own.
FROM_INPUT, OWN = "input", "own"
NOT_FOUND = 127
# Of linux/seccomp.h. Older kernels slow a process down that has a filter, unless this flag is set.
_SET_FILTER, _WITHOUT_SLOWDOWN = 1, 4
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
# The number of seccomp(2), by the machine.
_SECCOMP = {"x86_64": 317, "aarch64": 277}
# The first and last of add_key, request_key and keyctl, by the architecture as linux/audit.h names
# it: x86_64, i386, aarch64 and arm, since a process can use the calls of its 32-bit relative, too.
_KEY_CALLS = {
    0xC000003E: (248, 250),
    0x40000003: (286, 288),
    0xC00000B7: (217, 219),
    0x40000028: (309, 311),
}
_X32 = 0x40000000  # marks the calls of the third kind of process that x86_64 knows


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


def refuse_keys() -> None:
    """Keep this process, and all that it starts, from the kernel's keys, as if it had none.

    The keyrings of a user, and the one that is inherited from the agent, outlive its processes, and
    what their owner forbids not even root can remove. Privileges must have been forbidden before.
    Raises OSError if the kernel refuses that.
    """
    number = _SECCOMP.get(os.uname().machine)
    if number is None:
        return
    words = b"".join(_key_filter())
    held = ctypes.create_string_buffer(words, len(words))
    program = struct.pack("@HP", len(words) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_WITHOUT_SLOWDOWN, 0):  # the flag is new in Linux 4.17
        if libc.syscall(number, _SET_FILTER, flags, program) == 0:
            return
    raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_SET_MODE_FILTER)")


def confine() -> None:
    """Keep this process, and all that it starts, from privileges and keys.

    Raises OSError, with a sentence, if the kernel refuses that.
    """
    try:
        forbid_privileges()
        refuse_keys()
    except OSError as exc:
        why = f"{exc.strerror}: {os.strerror(exc.errno or 0)}"
        message = f"the kernel refuses what keeps programs from privileges and keys ({why})"
        raise OSError(exc.errno, message) from exc


def _key_filter() -> Iterator[bytes]:
    """Yield the instructions of a filter, in the language of linux/filter.h."""

    def instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    load, keep, equal, at_least, above, end = 0x20, 0x54, 0x15, 0x35, 0x25, 0x06
    yield instruction(load, 4)  # the architecture
    for architecture, (first, last) in _KEY_CALLS.items():
        yield instruction(equal, architecture, no=6)  # to the next one
        yield instruction(load, 0)  # the number of the call
        yield instruction(keep, 0xFFFFFFFF ^ _X32)
        yield instruction(at_least, first, no=2)
        yield instruction(above, last, yes=1)
        yield instruction(end, _REFUSE | errno.ENOSYS)
        yield instruction(end, _ALLOW)
    yield instruction(end, _ALLOW)


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
    try:
        confine()
    except OSError as exc:
        remedy = "it needs a machine with another kernel, or the request `root: true`"
        print(f"{command[0]!r} was not started: {exc.strerror}; {remedy}", file=sys.stderr)
        return NOT_FOUND
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
