"""Copies of databases in use: whole, and made by a process that a hostile program may end."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runctl.beneath.folder import Folder
from runctl.checkpoint import sqlite_copy
from runctl.checkpoint.sqlite_copy import DatabaseError, copy_database

ROWS = 500


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The program's connection to a database in WAL mode, with rows in the log only."""
    (tmp_path / "in").mkdir()
    connection = sqlite3.connect(tmp_path / "in/study.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma wal_autocheckpoint = 0")
    connection.execute("pragma synchronous = off")
    connection.execute("create table t (x)")
    insert(connection, ROWS, "x" * 500)
    with closing(connection):
        yield connection


def insert(connection: sqlite3.Connection, count: int, value: str) -> None:
    connection.execute("begin")
    connection.executemany("insert into t values (?)", [(value,) for _ in range(count)])
    connection.execute("commit")


def copied(tmp_path: Path, name: str = "study.db", *, seconds: float = 60) -> Path:
    target = tmp_path / "copy"
    target.unlink(missing_ok=True)
    with Folder.opened(tmp_path / "in") as folder:
        copy_database(folder, name, target, tmp_path / "work", seconds=seconds)
    return target


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        return int(database.execute("select count(*) from t").fetchone()[0])


@pytest.mark.parametrize("name", ["study.db", "a%20?b 'c'.db"])
def test_a_database_in_wal_mode_is_copied_with_what_only_its_log_has(
    tmp_path: Path, owner: sqlite3.Connection, name: str
) -> None:
    for sidecar in ("", "-wal", "-shm"):
        (tmp_path / f"in/study.db{sidecar}").rename(tmp_path / f"in/{name}{sidecar}")
    before = sorted((tmp_path / "in").iterdir())
    assert count(copied(tmp_path, name)) == ROWS
    # Nothing is added beside the original, and nothing of the work is left.
    assert sorted((tmp_path / "in").iterdir()) == before
    assert not (tmp_path / "work").exists()


def test_a_program_that_shortens_what_sqlite_has_mapped_does_not_end_the_agent(
    tmp_path: Path, owner: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = (tmp_path / "in/study.db-shm").read_bytes()
    asked = []

    def shortened(*_given: object) -> bool:
        # The database is open in the other process now, and its pages are not read yet.
        os.truncate(tmp_path / "in/study.db-shm", 0)
        asked.append(True)
        return True

    with monkeypatch.context() as patched:
        patched.setattr(sqlite_copy, "_are_same", shortened)
        with pytest.raises(DatabaseError, match="was ended by signal 7"):
            copied(tmp_path)
    assert asked
    assert not (tmp_path / "work").exists()
    # The next copy succeeds.
    (tmp_path / "in/study.db-shm").write_bytes(held)
    assert count(copied(tmp_path)) == ROWS


def test_a_database_that_was_replaced_while_it_was_opened_is_not_copied(
    tmp_path: Path, owner: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_copy, "_are_same", lambda *_given: False)
    with pytest.raises(DatabaseError, match="was replaced while it was being opened"):
        copied(tmp_path)
    assert not (tmp_path / "copy").exists() or not (tmp_path / "copy").read_bytes()


def test_a_copy_that_takes_too_long_says_how_much_was_left(
    tmp_path: Path, owner: sqlite3.Connection
) -> None:
    insert(owner, 5000, "x" * 4000)
    with pytest.raises(DatabaseError, match=r"[0-9]+ of [0-9]+ pages were left at the time limit"):
        copied(tmp_path, seconds=0)


def test_what_is_not_a_database_is_refused_with_sqlites_words(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    header = bytearray(b"SQLite format 3\0".ljust(200, b"\0"))
    header[18:20] = b"\x02\x02"  # as in WAL mode
    (tmp_path / "in/study.db").write_bytes(header)
    with pytest.raises(DatabaseError, match=r"not a database|malformed"):
        copied(tmp_path)
