"""Relocatable environments: nothing in them depends on where and when they were built."""

import contextlib
import os
import re
from pathlib import Path

# A shell line and a Python string at once: it runs the interpreter next to the script, wherever the
# environment was put.
RELATIVE_SHEBANG = (
    b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"\n\' \'\'\'\n'
)

# In a package's record: a script with its digest, which changes with the path of the interpreter.
_SCRIPT = re.compile(rb"(?m)^((?:\.\./)+bin/[^,\r\n]+),[^,\r\n]*,[^,\r\n]*")
_OF_UV = re.compile(rb"(?m)^[^,\r\n]*/uv_cache\.json,[^\r\n]*\r?\n?")


def make_relocatable(target: Path) -> None:
    """Remove what names the place of an environment, so that it may be put anywhere.

    Console scripts find the interpreter next to them.
    """
    _forget_origin(target)
    shebang = re.compile(rb"\A#!" + re.escape(os.fsencode(target)) + rb"/bin/python[^\n]*\n")
    long = re.compile(
        rb"\A#!/bin/sh\n'''exec' [\"']?" + re.escape(os.fsencode(target)) + rb"[^\n]*\n' '''\n"
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


def _forget_origin(target: Path) -> None:
    """Remove the notes of venv and uv about this build: equal environments have equal files."""
    settings = target / "pyvenv.cfg"
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text("".join(line for line in lines if not line.startswith("command")))
    for info in target.glob("lib/python3*/site-packages/*.dist-info"):
        (info / "uv_cache.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            record = (info / "RECORD").read_bytes()
            fresh = _OF_UV.sub(b"", _SCRIPT.sub(rb"\1,,", record))
            if fresh != record:
                (info / "RECORD").write_bytes(fresh)
