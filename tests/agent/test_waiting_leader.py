"""A server whose main process only waits: it is signalled once those that handle SIGTERM ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl.agent.runtime import stopping
from runctl.agent.runtime.family import SessionMembers
from runctl.agent.runtime.stopping import Stopping, WritingProcesses
from tests.agent.machine import end_tree, wait_until

# Waits for good, as LitServe's main process does, and never collects its child.
LEADER = """
    import signal, subprocess, sys, time
    {first}
    child = subprocess.Popen([sys.executable, "-c", CHILD])
    while True:
        time.sleep(0.05)
"""
# Answers what it has accepted; the file is what it is given the time for.
CHILD = """
    import pathlib, signal, sys, time
    def drain(*_):
        print("drains", flush=True)
        while not pathlib.Path("gate").exists():
            time.sleep(0.01)
        print("drained", flush=True)
        sys.exit()
    signal.signal(signal.SIGTERM, drain)
    print("up", flush=True)
    while True:
        time.sleep(0.05)
"""
HANDLER = "signal.signal(signal.SIGTERM, lambda *_: print('leader asked', flush=True))"
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class Server:
    """A program in a session of its own, and its stop."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._folder = folder
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                words, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        family = SessionMembers(self.process.pid)
        self._stopping = Stopping(family, self.process.pid, folder, WritingProcesses(folder))

    def wait_for(self, line: str) -> None:
        wait_until(lambda: line in self.said())

    def said(self) -> list[str]:
        return self._log.read_text().splitlines()

    def open_gate(self) -> None:
        """Let the child's last answer go."""
        (self._folder / "gate").touch()

    def stop(self) -> None:
        self._stopping.send(before_a_kill=lambda: None)

    def has_ended(self) -> bool:
        """Look after the leader once more, as a serving session does; whether it has exited."""
        self._stopping.end_waiting_leader()
        return self.process.poll() is not None

    def has_ended_as_a_trainer(self) -> bool:
        """Look after it once more, as the drain of a trainer does; whether it has exited."""
        is_running = self.process.poll() is None
        self._stopping.is_waiting(leader_runs=is_running)
        return not is_running

    def outlives(self, calls: int = 50) -> bool:
        """Whether the leader is still there after some time."""
        return not any(self.has_ended() or wait_briefly() for _ in range(calls))


def wait_briefly() -> bool:
    subprocess.run(["sleep", "0.02"], check=True)
    return False


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start servers that end with the test."""
    monkeypatch.setattr(stopping, "LEADER_EXIT", 0.3)
    started: list[Server] = []

    def run(leader: str, *, first: str = "", under: str = "") -> Server:
        program = textwrap.dedent(leader).format(first=first)
        code = f"CHILD = {textwrap.dedent(CHILD)!r}\n{program}"
        (tmp_path / "server.py").write_text(code)
        words = ("bash", "-c", under) if under else (sys.executable, "server.py")
        started.append(Server(tmp_path, *words))
        started[-1].wait_for("up")
        return started[-1]

    yield run
    for server in started:
        end_tree(server.process.pid)
        server.process.kill()
        server.process.wait()


def test_a_leader_without_a_handler_is_ended_after_its_child_has_drained(serve: Serve) -> None:
    server = serve(LEADER)
    server.stop()
    server.wait_for("drains")
    assert server.outlives()
    server.open_gate()
    wait_until(server.has_ended)
    assert server.process.returncode == -signal.SIGTERM
    assert server.said() == ["up", "drains", "drained"]


def test_a_leader_that_ends_after_its_child_is_not_signalled(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LEADER_EXIT", 60)
    waits = "child.wait(); time.sleep(0.5); print('cleaned up', flush=True); sys.exit(3)"
    server = serve(LEADER.replace("while True:", f"{waits}\n    while True:"))
    server.open_gate()
    server.stop()
    wait_until(server.has_ended)
    assert server.process.returncode == 3
    assert server.said()[-1] == "cleaned up"


def test_a_leader_that_handles_the_signal_gets_it_once(serve: Serve) -> None:
    server = serve(LEADER, first=HANDLER)
    server.open_gate()
    server.stop()
    server.wait_for("drained")
    assert server.outlives()
    assert server.said().count("leader asked") == 1


def test_a_leader_that_ignores_the_signal_is_not_killed_before_its_time(serve: Serve) -> None:
    server = serve(LEADER.replace("while True:", f"{IGNORE}\n    while True:"))
    server.open_gate()
    server.stop()
    server.wait_for("drained")
    assert server.outlives()


@pytest.mark.parametrize("line", ["{server}; true", "exec {server}", "timeout 600 {server}; true"])
def test_the_main_process_behind_a_shell_is_the_one_that_is_ended(serve: Serve, line: str) -> None:
    server = serve(LEADER, under=line.format(server=f"{sys.executable} server.py"))
    server.open_gate()
    server.stop()
    wait_until(server.has_ended)


def test_the_next_command_of_a_script_is_left_to_finish(serve: Serve) -> None:
    ends = LEADER.replace("while True:", "child.wait(); sys.exit()\n    while True:")
    line = f"{sys.executable} server.py; sleep 2 && echo stored"
    server = serve(ends, under=line)
    server.open_gate()
    server.stop()
    wait_until(server.has_ended)
    assert server.process.returncode == 0
    assert server.said()[-1] == "stored"


def test_a_parent_that_outlives_the_ranks_of_a_training_is_left_to_save(serve: Serve) -> None:
    saves = "child.wait(); time.sleep(1); print('saved', flush=True); sys.exit()"
    trainer = serve(LEADER.replace("while True:", f"{saves}\n    while True:"))
    trainer.open_gate()
    trainer.stop()
    wait_until(trainer.has_ended_as_a_trainer)
    assert trainer.process.returncode == 0
    assert trainer.said()[-1] == "saved"
