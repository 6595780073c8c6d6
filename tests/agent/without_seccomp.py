"""A kernel that refuses seccomp filters, as some have none: a filter that forbids the filter.

As a program, it runs another one there: PROGRAM [ARGUMENT…].
"""

from __future__ import annotations

import ctypes
import errno
import os
import runpy
import struct
import sys

_NUMBERS = {"x86_64": 317, "aarch64": 277}  # of seccomp(2)
_SET_SECCOMP, _FILTER = 22, 2  # of linux/prctl.h


def refuse_filters() -> None:
    """Let this process, and all that it starts, install no filter by seccomp(2); only root may."""
    lines = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, _NUMBERS[os.uname().machine]),
        (6, 0, 0, 0x00050000 | errno.EINVAL),
        (6, 0, 0, 0x7FFF0000),
    ]
    words = b"".join(struct.pack("=HBBI", *line) for line in lines)
    held = ctypes.create_string_buffer(words, len(words))
    program = struct.pack("@HP", len(lines), ctypes.addressof(held))
    if ctypes.CDLL(None).prctl(_SET_SECCOMP, _FILTER, program, 0, 0) != 0:
        raise OSError("prctl(PR_SET_SECCOMP)")


if __name__ == "__main__":
    refuse_filters()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
