"""What bench/gang.py compares with: other ways to go on after the loss of one node of four.

All nodes are processes of this machine, and share its disk, where the checkpoints are: a peer
fetches nothing over a network, and its nodes need no preparation.
"""

import abc
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from bench.gang_nodes import Facts, Node

TRAINER = Path(__file__).with_name("gang_trainer.py")
TORCHFT_TRAINER = Path(__file__).with_name("gang_torchft.py")
PYTHON = Path(__file__).parents[1] / "build/bench/bin/python"
# Else a new node waits for an address that the surviving rank 0 does not publish again.
NEW_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
FAST = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=3"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Peer(abc.ABC):
    """A gang that is launched, loses a node, and goes on in its own way."""

    name = ""
    # Whether a training script for plain torch works as it is.
    has_same_script = True

    def __init__(self, folder: Path, *, nodes: int, every: int, mebibytes: int) -> None:
        folder.mkdir()
        self.facts, self.folder = Facts(folder), folder
        self.nodes = [Node(number, folder) for number in range(nodes)]
        self.job = [str(folder), str(every), str(mebibytes)]

    def start(self) -> None:
        """Start all nodes."""
        for node in self.nodes:
            self.start_node(node)

    @abc.abstractmethod
    def start_node(self, node: Node) -> None:
        """Start one node."""

    def replace(self, lost: int, *, boot_seconds: float) -> None:
        """Do what an operator's script or a scheduler does after the loss of a node."""
        time.sleep(boot_seconds)
        self.nodes[lost] = Node(lost, self.folder)
        self.start_node(self.nodes[lost])

    def is_settled(self) -> bool:
        """Whether nothing else has to happen before the loss."""
        return True

    def lose(self, rank: int) -> None:
        """Kill all processes of a node."""
        self.nodes[rank].kill()

    def fetched_bytes(self, since: float) -> int:
        """Return the size of the checkpoints that all nodes have read."""
        return sum(fact["bytes"] for fact in self.facts.read("restored") if fact["at"] > since)

    def last_words(self) -> str:
        """Return the last line of a node that was not lost."""
        return self.nodes[0].last_words()

    def stop(self) -> None:
        """Kill everything."""
        for node in self.nodes:
            node.kill()


class Restarted(Peer):
    """torchrun, which a script starts again on new nodes once one of the launchers has ended."""

    name = "full restart (torchrun, script)"
    port = 0

    def start(self) -> None:
        """Start all nodes with a new port."""
        self.port = free_port()
        super().start()

    def start_node(self, node: Node) -> None:
        """Start the launcher with the static rendezvous."""
        options = [f"--nnodes={len(self.nodes)}", f"--node-rank={node.number}"]
        options += ["--nproc-per-node=1", "--rdzv-backend=static", "--max-restarts=0"]
        options += ["--master-addr=127.0.0.1", f"--master-port={self.port}"]
        node.start([PYTHON, "-m", "torch.distributed.run", *options, TRAINER, *self.job], {})

    def replace(self, lost: int, *, boot_seconds: float) -> None:
        """Kill what is left, boot all nodes, and start again."""
        while not self.nodes[lost].has_ended:
            time.sleep(0.05)
        self.stop()
        time.sleep(boot_seconds)
        self.nodes = [Node(node.number, self.folder) for node in self.nodes]
        self.start()


class Elastic(Peer):
    """torchrun's elastic agent: the launchers restart their workers when the gang changes."""

    name = "torchrun elastic (c10d, defaults)"
    launcher: tuple[str, ...] = ("-m", "torch.distributed.run")
    extra: tuple[str, ...] = ()
    settings = ""
    variables: Mapping[str, str] = NEW_STORE
    port = 0

    def start_node(self, node: Node) -> None:
        """Start a launcher; node 0 holds the store."""
        self.port = self.port or free_port()
        settings = f"is_host={int(node.number == 0)}" + (
            f",{self.settings}" if self.settings else ""
        )
        options = [f"--nnodes={len(self.nodes)}", "--nproc-per-node=1", "--max-restarts=3"]
        options += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}"]
        options += ["--rdzv-id=bench", "--local-addr=127.0.0.1", f"--rdzv-conf={settings}"]
        words: list[str | Path] = [
            PYTHON,
            *self.launcher,
            *self.extra,
            *options,
            TRAINER,
            *self.job,
        ]
        node.start(words, {**self.variables, "PYTHONWARNINGS": "ignore"})


class FastElastic(Elastic):
    """The same with a rendezvous that gives a silent node up after 3 s."""

    name = "torchrun elastic (c10d, 3 s)"
    settings = FAST


class InJobRestart(FastElastic):
    """The launcher of nvidia-resiliency-ext, which is made from torchrun's."""

    name = "nvidia-resiliency-ext in-job, 3 s"
    # A script of that environment, which its Python can run.
    launcher = (str(PYTHON.with_name("ft_launcher")),)
    extra = ("--ignore-missing-fault-tol-cfg",)


class Torchft(Peer):
    """torchft: the others go on at once, without a restart; the script is written for it."""

    name = "torchft"
    has_same_script = False
    lighthouse: Node
    port = 0

    def start(self) -> None:
        """Start the lighthouse, which all nodes need, and the nodes."""
        self.port = free_port()
        self.lighthouse = Node(len(self.nodes), self.folder)
        # A minute, its default, is how long each change of the group would last.
        options = ["--min_replicas", "1", "--join_timeout_ms", "1000"]
        options += ["--heartbeat_timeout_ms", "1000", "--bind", f"127.0.0.1:{self.port}"]
        self.lighthouse.start([PYTHON.with_name("torchft_lighthouse"), *options], {})
        super().start()

    def start_node(self, node: Node) -> None:
        """Start a node's own process."""
        facts, _every, mebibytes = self.job
        words: list[str | Path] = [
            PYTHON,
            "-W",
            "ignore",
            TORCHFT_TRAINER,
            facts,
            str(node.number),
            mebibytes,
        ]
        node.start(words, {"TORCHFT_LIGHTHOUSE": f"http://127.0.0.1:{self.port}"})

    def stop(self) -> None:
        """Kill the nodes and the lighthouse."""
        super().stop()
        self.lighthouse.kill()


PEERS: tuple[type[Peer], ...] = (Restarted, Elastic, FastElastic, InJobRestart, Torchft)


def are_installed() -> bool:
    """Whether the environment of the peers is there."""
    return os.access(PYTHON, os.X_OK)
