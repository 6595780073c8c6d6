"""What the system records about a user's programs and lets the user read: journals and core dumps.

A core dump has the memory of a program, and the journal of a user what its programs have logged; of
a program that crashed, systemd-coredump adds its variables, and so its secrets.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

# One folder for each machine, of which a disk may have had several.
_JOURNALS = ("var/log/journal", "run/log/journal")
_CORE_DUMPS = "var/lib/systemd/coredump"


def remove_records_of(uid: int, root: Path) -> None:
    """Remove the journals and the core dumps of a user; journald begins a new journal then."""
    for path in [*_journals_of(uid, root), *_core_dumps_of(uid, root)]:
        with contextlib.suppress(OSError):
            path.unlink()


def _journals_of(uid: int, root: Path) -> Iterator[Path]:
    for folder in _JOURNALS:
        for name in (f"user-{uid}.journal", f"user-{uid}@*.journal", f"user-{uid}@*.journal~"):
            yield from (root / folder).glob(f"*/{name}")


def _core_dumps_of(uid: int, root: Path) -> Iterator[Path]:
    """Yield files with names as core.NAME.UID.BOOT.PID.TIME; a dot in NAME is written otherwise."""
    for path in (root / _CORE_DUMPS).glob("core.*"):
        if path.name.split(".")[2:3] == [str(uid)]:
            yield path
