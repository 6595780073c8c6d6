"""Relocatable environments: packed without links, with scripts that find their Python."""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from runctl.agent.instance.archive import pack

# A shell line and a Python string at once: it runs the interpreter next to the script, wherever the
# environment was put.
RELATIVE_SHEBANG = (
    b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"\n\' \'\'\'\n'
)


def pack_environment(archive: Path, target: Path, names: Sequence[str]) -> None:
    """Pack an environment without its links to the interpreter, which each instance creates."""
    found = []
    for name in names:
        if name == "bin":
            found += [
                f"bin/{path.name}"
                for path in sorted((target / "bin").iterdir())
                if not path.is_symlink()
            ]
        else:
            found.append(name)
    pack(archive, target, found)


def make_relocatable(target: Path) -> None:
    """Let console scripts find the interpreter next to them, wherever the environment is put."""
    shebang = re.compile(rb"\A#!" + re.escape(os.fsencode(target)) + rb"/bin/python[^\n]*\n")
    long = re.compile(
        rb"\A#!/bin/sh\n'''exec' \"?" + re.escape(os.fsencode(target)) + rb"[^\n]*\n' '''\n"
    )
    for path in (target / "bin").iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            fresh = shebang.sub(lambda _: RELATIVE_SHEBANG, content, count=1)
            fresh = long.sub(lambda _: RELATIVE_SHEBANG, fresh, count=1)
            if fresh != content:
                path.write_bytes(fresh)
