"""SQLite's backup of one database, as a program of its own, which uses only the standard library.

SQLite maps the `-shm` file of a database in WAL mode. If the program that owns the database
shortens that file, the kernel ends the process that has it mapped (SIGBUS): this one, not the
agent. A process of its own also keeps SQLite's locks apart from files that the agent closes.
"""

import contextlib
import json
import sys
import time
from typing import Any
from urllib.parse import quote

OPENED = "opened"
GO_ON = "go on"
BUSY_SECONDS = 1.0
PAGES_AT_ONCE = 2000
PAUSE = 0.02


class _LateError(Exception):
    """The time limit has passed."""


def main() -> int:
    """Copy what the first line of the input says; the last line of the output says why not.

    `opened` is written once the database is read, and nothing is copied before the answer.
    """
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    try:
        import sqlite3
    except ImportError:
        print("Python's sqlite3 is missing on this machine")
        return 1

    def keep_to_time(_status: int, remaining: int, total: int) -> None:
        if time.monotonic() > given["until"]:
            raise _LateError(f"{remaining} of {total} pages were left at the time limit")

    address = f"file:{quote(given['database'])}?mode=ro"
    try:
        with (
            contextlib.closing(
                sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            ) as original,
            contextlib.closing(sqlite3.connect(given["target"], isolation_level=None)) as copy,
        ):
            copy.execute("pragma synchronous = off")
            if given["in_one"]:
                original.execute("begin")
            original.execute("select count(*) from sqlite_master").fetchone()
            print(OPENED, flush=True)
            if sys.stdin.readline().strip() != GO_ON:
                return 1
            original.backup(copy, pages=PAGES_AT_ONCE, progress=keep_to_time, sleep=PAUSE)
    except (sqlite3.Error, _LateError) as exc:
        print(exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
