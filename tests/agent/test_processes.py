"""The trainer's processes: all of them end, their open files are known, and no others end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl.agent.instance import processes
from runctl.agent.runtime.process_table import trainer_family
from tests.agent.machine import end_tree, is_alive, wait_until

WORKER = "import time; print('up', flush=True); time.sleep(600)"
Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs that end with the test, as do their descendants."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, **options: object) -> int:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, **options)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield run
    for process in started:
        end_tree(process.pid)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_whole_tree_ends_however_deep_it_is(start: Start) -> None:
    program = WORKER
    for _ in range(3):
        program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    pid = start(sys.executable, "-c", program)
    family = processes.descendants(pid)
    assert len(family) >= 3
    end_tree(pid)
    assert not any(is_alive(member) for member in family)


def test_files_open_when_a_tree_is_killed_are_known_with_their_writers(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    writer = f"""
import time
(closed := open({str(folder / "closed")!r}, "w")).close()
held = open({str(folder / "torn")!r}, "w")
print("up", flush=True)
time.sleep(600)
"""
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {writer!r}])"
    pid = start(sys.executable, "-c", program)
    (child,) = processes.descendants(pid)
    killed = end_tree(pid, folder=folder)
    assert killed == processes.KilledTree((child,), frozenset({"torn"}), frozenset({child}))
    assert not is_alive(child)


def test_leftovers_are_recognized_by_their_environment(start: Start, tmp_path: Path) -> None:
    marked = start(
        sys.executable, "-c", WORKER, env={**os.environ, "RUNCTL_CHECKPOINT_DIR": str(tmp_path)}
    )
    other = start(sys.executable, "-c", WORKER)
    assert processes.end_leftovers(f"RUNCTL_CHECKPOINT_DIR={tmp_path}") == [marked]
    assert not is_alive(marked)
    assert is_alive(other)


def test_tools_of_the_agent_are_not_processes_of_the_trainer() -> None:
    command = ["sleep", "60"]
    with (
        subprocess.Popen(command) as tool,
        subprocess.Popen(command, start_new_session=True) as trainer,
    ):
        try:
            found = {info.pid for info in trainer_family()}
        finally:
            tool.kill()
            trainer.kill()
    assert trainer.pid in found
    assert tool.pid not in found


def test_process_that_waits_to_be_collected_is_exiting() -> None:
    child = subprocess.Popen(["sleep", "600"])
    assert not processes.is_exiting(child.pid)
    child.kill()
    wait_until(lambda: processes.is_exiting(child.pid))
    child.wait()
    assert processes.is_exiting(child.pid)


KILL_ALL = """
import subprocess
from pathlib import Path
from runctl.agent.runtime.host_runtime import HostRuntime
from runctl.agent.runtime.process_table import counting_as_tool
tool, left = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]
with counting_as_tool(tool.pid):
    HostRuntime(on_exit=lambda: None).kill_all()
    print(*(Path(f"/proc/{process.pid}").exists() for process in (tool, left)))
    tool.kill()
"""


def test_the_end_of_an_attempt_spares_the_commit_of_its_environment() -> None:
    # In a process of its own, since all its descendants are killed.
    command = [sys.executable, "-c", KILL_ALL]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "False"]
