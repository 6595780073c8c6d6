"""The signs of life of ranks: what their helper counts, and what the kernel shows of them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.agent.gang.connections import connected
from runctl.agent.gang.pulses import LAYOUT, GangProgram, Pulses
from runctl.model.gang import RankPulse
from tests.agent.machine import wait_until

ROOT = Path(__file__).parents[2]
# A rank that does what it is told, line by line, and says when it has done it.
RANK = """
import socket, sys, time
from runctl.hooks.pulse import pulse
kept = []
for line in sys.stdin:
    word, *rest = line.split()
    if word == "burn":
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
    elif word == "write":
        with open(rest[0], "wb") as file:
            file.write(bytes(100_000))
    elif word == "connect":
        kept.append(socket.create_connection(("127.0.0.1", int(rest[0]))))
    else:
        getattr(pulse, word)()
    print("done", flush=True)
"""


class Node:
    """Ranks of a node, and the agent's view of them; `later` sets its clock forward."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks: list[subprocess.Popen[str]] = []
        self.launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self._ahead = 0.0
        self.pulses = Pulses(folder, clock=lambda: time.monotonic() + self._ahead)

    def begin(self, port: int = 1, *, ranks: int = 1, has_launcher: bool = True) -> None:
        self.pulses.begin(
            GangProgram(
                pids=lambda: [self.launcher.pid, *(rank.pid for rank in self.ranks)],
                address="127.0.0.1",
                port=port,
                ranks=ranks,
                has_launcher=has_launcher,
            )
        )

    def start(self, *, local_rank: str | None = None) -> subprocess.Popen[str]:
        mine = {} if local_rank is None else {"LOCAL_RANK": local_rank}
        rank = subprocess.Popen(
            [sys.executable, "-c", RANK],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "RUNCTL_PULSE_DIR": str(self.folder), **mine},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ranks.append(rank)
        command(rank, "burn")  # it has started then
        return rank

    def read(self, *, later: float = 0.0) -> tuple[RankPulse, ...]:
        self._ahead += later
        return self.pulses.read()

    def close(self) -> None:
        for process in (self.launcher, *self.ranks):
            process.kill()
            process.communicate()


def command(rank: subprocess.Popen[str], *commands: str) -> None:
    assert rank.stdin is not None
    assert rank.stdout is not None
    for line in commands:
        rank.stdin.write(f"{line}\n")
        rank.stdin.flush()
        assert rank.stdout.readline() == "done\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_agreements_of_each_rank_are_counted(node: Node) -> None:
    node.begin(ranks=2)
    first, second = node.start(local_rank="0"), node.start(local_rank="1")
    command(first, "begin", "end", "burn", "begin")
    command(second, "begin", "end")
    found = node.read()
    assert [(pulse.entered, pulse.left) for pulse in found] == [(2, 1), (1, 1)]
    # What precedes the first agreement is no step, and the last is not over.
    assert found[0].busy_seconds >= 0.3
    assert found[1].busy_seconds == 0.0


def test_what_follows_its_computation_is_a_wait_for_others(node: Node) -> None:
    node.begin()
    rank = node.start(local_rank="0")
    command(rank, "begin", "end", "note_computed", "burn", "begin", "end")
    (found,) = node.read()
    assert found.busy_seconds < 0.3


def test_time_without_a_change_is_idle(node: Node) -> None:
    node.begin()
    rank = node.start(local_rank="0")
    command(rank, "begin")
    (found,) = node.read(later=50.0)
    assert found.idle_seconds >= 50.0


def test_a_rank_that_works_is_not_still_and_one_that_waits_is(node: Node, tmp_path: Path) -> None:
    node.begin()
    rank = node.start(local_rank="0")
    node.read()
    command(rank, "burn")
    assert node.read(later=3.0)[0].still_seconds == 0.0
    assert node.read(later=60.0)[0].still_seconds >= 60.0
    assert node.read(later=60.0)[0].still_seconds >= 120.0
    command(rank, f"write {tmp_path / 'file'}")
    assert node.read(later=60.0)[0].still_seconds == 0.0


def test_a_rank_that_was_stopped_by_a_signal_is_suspended(node: Node) -> None:
    node.begin()
    rank = node.start(local_rank="0")
    assert not node.read()[0].is_suspended
    rank.send_signal(signal.SIGSTOP)
    wait_until(lambda: node.read()[0].is_suspended)
    rank.send_signal(signal.SIGCONT)
    wait_until(lambda: not node.read()[0].is_suspended)


def test_a_node_is_not_there_before_its_launcher_has_found_the_others(
    node: Node, server: socket.socket
) -> None:
    node.begin(port_of(server), ranks=2)
    assert node.read() == ()
    # Anything that is no rank counts as the launcher.
    launcher = node.start()
    assert node.read() == ()
    command(launcher, f"connect {port_of(server)}")
    assert node.read() == (RankPulse(), RankPulse())
    node.start(local_rank="0")
    assert [pulse.has_joined for pulse in node.read()] == [False, False]


def test_a_rank_has_joined_once_it_is_connected_to_the_rendezvous(
    node: Node, server: socket.socket
) -> None:
    node.begin(port_of(server))
    rank = node.start(local_rank="0")
    assert not node.read()[0].has_joined
    command(rank, f"connect {port_of(server)}")
    assert node.read()[0].has_joined
    assert not connected([rank.pid], "127.0.0.1", port_of(server) + 1)
    rank.kill()
    rank.wait()
    assert node.read()[0].has_joined


def test_a_program_without_a_launcher_is_one_rank(node: Node, server: socket.socket) -> None:
    node.begin(port_of(server), has_launcher=False)
    rank = node.start()
    command(rank, "begin", f"connect {port_of(server)}")
    (found,) = node.read()
    assert (found.entered, found.has_joined) == (1, True)


def test_nothing_is_read_before_a_program_and_after_its_end(node: Node) -> None:
    assert node.read() == ()
    node.begin()
    node.start(local_rank="0")
    assert len(node.read()) == 1
    assert node.pulses.has_launcher
    node.pulses.end()
    assert node.read() == ()
    assert not node.pulses.has_launcher


@pytest.mark.parametrize(
    "content", [b"", b"torn", LAYOUT.pack(3, 2, float("nan"), 1.0), struct.pack("<QQ", 1, 1)]
)
def test_a_file_that_cannot_be_read_counts_nothing(node: Node, content: bytes) -> None:
    node.begin()
    node.start(local_rank="0")
    (node.folder / "rank-0").write_bytes(content)
    (found,) = node.read(later=10.0)
    assert (found.entered, found.busy_seconds, found.idle_seconds) == (0, 0.0, 0.0)


def test_a_connection_to_the_own_address_counts_as_one_by_the_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = port_of(server)
        with socket.create_connection(("127.0.0.1", port)):
            assert connected([os.getpid()], "10.0.0.9", port)
        assert not connected([2**22 + 1], "10.0.0.9", port)


def test_an_ipv4_connection_of_an_ipv6_socket_counts() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = port_of(server)
        with socket.socket(socket.AF_INET6) as client:
            client.connect(("::ffff:127.0.0.1", port))
            assert connected([os.getpid()], "10.0.0.9", port)
