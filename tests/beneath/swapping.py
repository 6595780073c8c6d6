"""A trainer that swaps names in its folder while somebody reads there, and a canary outside."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TRAINER = 61_234
CANARY = b"canary: nobody but root may read this\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files to protect")

# Exchanges two names as fast as it can, so that a path means one thing and then the other.
_SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
names = []
for path in sys.argv[1:3]:
    above, name = os.path.split(path)
    names += [os.open(above, os.O_RDONLY), os.fsencode(name)]
if os.geteuid() == 0:
    os.setgid({uid}); os.setuid({uid})
print("ready", flush=True)
while True:
    if libc.renameat2(*names, 2):
        raise OSError(ctypes.get_errno(), "renameat2")
"""


def hide_canary(folder: Path) -> Path:
    """Make a file that only its owner may read, outside of every trainer's folder."""
    folder.mkdir(mode=0o700, parents=True)
    canary = folder / "shadow"
    canary.write_bytes(CANARY)
    canary.chmod(0o600)
    return canary


def give_to_trainer(folder: Path) -> Path:
    """Let the trainer own a folder and what is in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, TRAINER, TRAINER, follow_symlinks=False)
    return folder


@contextlib.contextmanager
def swapped(first: Path, second: Path) -> Iterator[None]:
    """Let another process exchange two names in a tight loop, with the rights of the trainer."""
    program = subprocess.Popen(
        [sys.executable, "-c", _SWAP.format(uid=TRAINER), str(first), str(second)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        yield
        assert program.poll() is None
    finally:
        program.kill()
        program.wait()
        if program.stdout is not None:
            program.stdout.close()
