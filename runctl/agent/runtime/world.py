"""The world of a gang: the processes of all its nodes, and how a node's are started."""

import os
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = "torch.distributed.run"


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of all nodes of an attempt, as one node starts its own.

    `address` and `port` are those of the rendezvous, which the node of rank 0 offers. `interface`
    is the network interface to the other nodes, empty where it is not known, and `pulses` the
    folder in which the ranks show their signs of life. With `has_launcher`, torch starts the
    processes; otherwise the program does so itself.
    """

    rank: int
    nodes: int
    processes: int
    address: str
    port: int
    interface: str
    has_gpus: bool
    pulses: Path
    has_launcher: bool

    def launcher(self, python: str) -> list[str]:
        """Return the words that start a script in Python on this node, which follows them.

        A node that is lost is replaced in another attempt, so the launcher never restarts any.
        """
        return [
            python, "-m", LAUNCHER,
            f"--nnodes={self.nodes}",
            f"--nproc-per-node={self.processes}",
            f"--node-rank={self.rank}",
            "--rdzv-backend=static",
            f"--master-addr={self.address}",
            f"--master-port={self.port}",
            "--max-restarts=0",
        ]  # fmt: skip

    def variables(self) -> dict[str, str]:
        """Return the variables by which a program knows its place in the gang."""
        return {
            "RUNCTL_NODE_RANK": str(self.rank),
            "RUNCTL_NODES": str(self.nodes),
            "RUNCTL_BACKEND": "nccl" if self.has_gpus else "gloo",
            "RUNCTL_PULSE_DIR": str(self.pulses),
        }

    def defaults(self) -> dict[str, str]:
        """Return variables that those of the request replace."""
        found = {}
        if self.interface:
            # The name of a host may mean an address that no other node can reach.
            found["GLOO_SOCKET_IFNAME"] = found["NCCL_SOCKET_IFNAME"] = self.interface
        if self.has_launcher:
            if self.processes > 1:  # or torch's launcher sets it to 1, with a warning
                found["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.processes))
            return found
        return found | {
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            "NODE_RANK": str(self.rank),
            "NNODES": str(self.nodes),
            "NPROC_PER_NODE": str(self.processes),
        }
