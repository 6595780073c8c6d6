"""Slow saves, databases that stay open, and programs that save without pause."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.restore import Restorer
from tests.agent.machine import Cloud, wait_until

pytestmark = pytest.mark.slow

# Files of one save come seconds apart, as when shards are gathered. The test lets it continue.
WITH_PAUSES = """
    import json, os, time
    from pathlib import Path

    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    go = Path(os.environ["RUNCTL_OUTPUT_DIR"]) / "go"
    saves = sorted(root.glob("ckpt-*"), key=lambda path: int(path.name[5:]))
    step = json.loads((saves[-1] / "b.json").read_text()) if saves else 0
    print("from", step, flush=True)
    while step < 4:
        step += 1
        to = root / f"ckpt-{step}"
        to.mkdir(exist_ok=True)
        if EMPTY_FIRST:
            (to / "a.bin").touch()
            (to / "b.json").write_text(json.dumps(step))
        else:
            (to / "a.bin").write_bytes(os.urandom(1 << 20))
        while step > 1 and not go.exists():
            time.sleep(0.05)
        if EMPTY_FIRST:
            (to / "a.bin").write_bytes(os.urandom(1 << 20))
        else:
            (to / "b.json").write_text(json.dumps(step))
        go.unlink(missing_ok=True)
    time.sleep(600)
"""

DATABASE = """
    import os, sqlite3, time
    from pathlib import Path

    path = Path(os.environ["RUNCTL_CHECKPOINT_DIR"]) / "study"
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    db.execute("pragma journal_mode=JOURNAL")
    db.execute("create table if not exists t(n integer primary key)")
    count = lambda: db.execute("select count(*) from t").fetchone()[0]
    print("done", count(), db.execute("pragma integrity_check").fetchone()[0], flush=True)
    while True:
        time.sleep(0.1)
        db.execute("insert into t default values")
"""

NEVER_CLOSED = """
    import os, time
    from pathlib import Path

    folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    (folder / "step-1.bin").write_bytes(b"saved")
    with (folder / "state.dat").open("wb") as stream:
        stream.write(bytes(10_000))
        while True:
            stream.seek(0)
            stream.write(os.urandom(10_000))
            stream.flush()
            time.sleep(0.2)
"""

EVERY_TEN_MS = """
    import os, time
    from pathlib import Path

    folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    have = sorted(int(path.suffix[1:]) for path in folder.glob("model.*"))
    number = have[-1] if have else 0
    print("from", number, flush=True)
    data = os.urandom(1_500_000)
    while True:
        number += 1
        time.sleep(0.003)
        part = folder / f"part{os.getpid()}.writing"
        part.write_bytes(data + str(number).encode())
        part.rename(folder / f"model.{number}")
        (folder / f"model.{number - 5}").unlink(missing_ok=True)
"""


def begin(cloud: Cloud, launch: Any, program: str) -> Any:
    cloud.create_run(program)
    cloud.open_attempt()
    cloud.give_token()
    return launch()


def restored(cloud: Cloud, place: Path) -> Path:
    """Restore the newest checkpoint, as any other machine would."""
    newest = cloud.run().newest
    assert newest is not None
    store = CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id="run-1")
    restorer = Restorer(store, place / "incoming")
    restorer.put_in_place(restorer.fetch(newest).manifest, place / "folder")
    return place / "folder"


def commits(machine: Any) -> list[str]:
    return [line for line in machine.agent_log().splitlines() if "committed" in line]


@pytest.mark.parametrize("empty_first", [False, True])
def test_save_whose_files_arrive_seconds_apart_is_committed_only_with_all_of_them(
    cloud: Cloud, launch, tmp_path: Path, empty_first: bool
) -> None:
    machine = begin(cloud, launch, WITH_PAUSES.replace("EMPTY_FIRST", str(empty_first)))
    wait_until(lambda: "a.bin" in listed(cloud, tmp_path, 1), why="ckpt-1 was not committed")
    wait_until((machine.checkpoint / "ckpt-2/a.bin").exists)
    # It warns once the save has been incomplete for longer than any folder takes to settle.
    wait_until(lambda: "ckpt-2" in cloud.attempt().warning)
    assert "a.bin is empty" in cloud.attempt().warning or "no b.json" in cloud.attempt().warning
    folder = restored(cloud, tmp_path / "before")
    assert sorted(path.name for path in folder.iterdir()) == ["ckpt-1"]
    assert (folder / "ckpt-1/b.json").read_text() == "1"
    (machine.state / "output/go").touch()
    wait_until(lambda: "a.bin" in listed(cloud, tmp_path, 2), why="ckpt-2 was not committed")
    wait_until(lambda: not cloud.attempt().warning)
    folder = restored(cloud, tmp_path / "after")
    assert (folder / "ckpt-2/b.json").read_text() == "2"
    assert (folder / "ckpt-2/a.bin").stat().st_size == 1 << 20


def listed(cloud: Cloud, place: Path, number: int) -> set[str]:
    """Return those files of a save that are in the newest checkpoint."""
    if cloud.run().newest is None:
        return set()
    folder = restored(cloud, place / f"look-{number}") / f"ckpt-{number}"
    full = {path.name for path in folder.glob("*") if path.stat().st_size}
    return full if {"a.bin", "b.json"} <= full else set()


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_database_that_stays_open_is_saved_while_the_trainer_runs(
    cloud: Cloud, launch, tmp_path: Path, journal: str
) -> None:
    machine = begin(cloud, launch, DATABASE.replace("JOURNAL", journal))
    wait_until(lambda: len(commits(machine)) >= 2, why="the database was not saved twice")
    names = {path.name for path in machine.checkpoint.iterdir()}
    assert names <= {"study", "study-wal", "study-shm", "study-journal"}
    machine.end()
    folder = restored(cloud, tmp_path)
    assert [path.name for path in folder.iterdir()] == ["study"]
    with closing(sqlite3.connect(folder / "study")) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        saved = database.execute("select count(*) from t").fetchone()[0]
    assert saved > 0

    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    output = second.state / "log/trainer.out"
    wait_until(lambda: output.exists() and "done" in output.read_text())
    assert output.read_text().splitlines()[0] == f"done {saved} ok"


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_database_is_saved_as_it_is_on_disk_when_its_process_is_gone(
    cloud: Cloud, launch, tmp_path: Path, journal: str
) -> None:
    machine = begin(cloud, launch, DATABASE.replace("JOURNAL", journal))
    wait_until(lambda: commits(machine))
    before = len(commits(machine))
    count = rows(machine.checkpoint / "study")
    wait_until(lambda: rows(machine.checkpoint / "study") > count + 5)
    count = rows(machine.checkpoint / "study")
    machine.metadata.give_notice(seconds=60)
    cloud.outcome()
    assert len(commits(machine)) > before
    folder = restored(cloud, tmp_path)
    assert "study-shm" not in {path.name for path in folder.iterdir()}
    assert rows(folder / "study") >= count


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=10)) as database:
        return int(database.execute("select count(*) from t").fetchone()[0])


def test_file_that_is_never_closed_is_named_and_the_rest_is_saved(cloud: Cloud, launch) -> None:
    machine = begin(cloud, launch, NEVER_CLOSED)
    wait_until(lambda: "state.dat: open for writing" in cloud.attempt().warning)
    assert "rename" in cloud.attempt().warning
    assert commits(machine)


@contextmanager
def a_busy_machine() -> Iterator[None]:
    """Run more busy processes than there are cores."""
    spinners = [
        multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(6)
    ]
    for spinner in spinners:
        spinner.start()
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.join()


def spin() -> None:
    while True:
        pass


def test_program_that_saves_every_ten_ms_is_committed_regularly_on_a_busy_machine(
    cloud: Cloud, launch, tmp_path: Path
) -> None:
    with a_busy_machine():
        machine = begin(cloud, launch, EVERY_TEN_MS)
        wait_until(lambda: len(commits(machine)) >= 3)
        machine.end()
    names = {path.name for path in restored(cloud, tmp_path).iterdir()}
    kept = [path for path in (tmp_path / "folder").iterdir() if path.name.startswith("model.")]
    assert kept
    for path in kept:
        assert path.read_bytes()[1_500_000:] == path.suffix[1:].encode(), names
