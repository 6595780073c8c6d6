"""A machine: systemd, booted by nspawn on an overlay of the root in build/machine.

Whatever ends its supervisor ends the machine, too. The mounts are in a mount namespace of the
supervisor's, the network has no name, and nspawn is the first process of a namespace of processes,
which the kernel ends as a whole. Only the empty control groups are left; see `control_groups`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runctl.local.ec2.relay import Relay
from runctl.local.guest import network_namespaces
from tests.machine import entering, metadata
from tests.machine.control_groups import ControlGroups
from tests.machine.metadata import MetadataRelay

BASE = Path(__file__).parents[2] / "build/machine/root"
_REBOOT = 133  # how nspawn ends when the machine wants to be booted again
_RUNNING = {b"running", b"degraded"}
_WANTED_SECONDS = 60


class Machine:
    """The machine of one instance; `folder` gets what it writes."""

    def __init__(
        self,
        instance_id: str,
        folder: Path,
        *,
        endpoint_port: int,
        metadata_url: str,
        shared: Sequence[Path],
        memory_bytes: int = 0,
        network: dict[str, Any] | None = None,
    ) -> None:
        self._id, self._folder, self._memory_bytes = instance_id, folder, memory_bytes
        self._endpoint_port, self._metadata_url = endpoint_port, metadata_url
        self._shared = shared
        self._images = folder / "images"
        self._groups = ControlGroups(instance_id)
        self._relays: list[Relay] = []
        self._network: int | None = None
        self._joined = network
        self._process: asyncio.subprocess.Process | None = None

    def mount(self) -> None:
        """Mount its root, in this process's own mount namespace."""
        upper, work, root = (self._folder / name for name in ("upper", "work", "root"))
        # The journal is kept on the disk if this folder exists.
        for folder in (upper / "var/log/journal", work, root, self._images):
            folder.mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={BASE},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "overlay", "-o", layers, str(root))
        # Where nspawn would leave a folder behind when it is killed.
        Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", "/run/systemd/nspawn")

    async def boot(self) -> None:
        """Boot it, and wait until its units have started or it has ended."""
        self._write_names()
        network = await self._make_network()
        groups = self._groups.create(memory_bytes=self._memory_bytes)
        enter = "".join(f'echo $$ >"{group}/cgroup.procs"; ' for group in groups)
        with (self._folder / "console.log").open("ab") as console:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", f'{enter}exec "$@"', "-"),
                *("systemd-nspawn", "--quiet", "--boot", "--directory", self._folder / "root"),
                # The first process of this system need not be systemd.
                *("--machine", self._id, "--keep-unit", "--register=no", "--console=pipe"),
                f"--network-namespace-path=/proc/self/fd/{network}",
                "--capability=CAP_NET_ADMIN",
                # What an engine needs besides: keys of its containers, and rules for their devices.
                "--system-call-filter=@keyring bpf",
                *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
                *(f"--bind={folder}" for folder in self._shared),
                # An engine makes overlays, which cannot be on one.
                f"--bind={self._images}:/var/lib/docker",
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                pass_fds=[network],
                # Otherwise it gets the controllers of version 1, with which no fence can be loaded.
                env={
                    **entering.ENVIRONMENT,
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
                },
            )
        while self._process.returncode is None and not await self._is_running():
            await asyncio.sleep(0.1)

    def _write_names(self) -> None:
        """Give a machine in a network the name of its address, as on EC2."""
        if self._joined is not None:
            name, address = self._joined["host_name"], self._joined["address"]
            settings = self._folder / "root/etc"
            (settings / "hostname").write_text(f"{name}\n")
            hosts = f"127.0.0.1 localhost\n{address} {name} {name.partition('.')[0]}\n"
            (settings / "hosts").write_text(hosts)

    async def _make_network(self) -> int:
        """Make a network: a new one for each boot, since the rules of the old one would survive."""
        await self._leave_network()
        if self._joined is None:
            self._network = network = network_namespaces.create()
            await self._offer(Relay(self._endpoint_port), ("127.0.0.1", self._endpoint_port))
        else:  # by the local cloud, with a relay of the endpoint in it
            self._network = network = self._joined["namespace"]
        network_namespaces.configure(network, f"addr add {metadata.ADDRESS[0]}/32 dev lo")
        await self._offer(MetadataRelay(self._metadata_url), metadata.ADDRESS)
        return network

    async def _offer(self, relay: Relay, address: tuple[str, int]) -> None:
        """Listen in the machine's network; the connections are forwarded in this one."""
        assert self._network is not None
        listener = network_namespaces.within(
            self._network, lambda: socket.create_server(address, backlog=256)
        )
        self._relays.append(relay)
        await relay.start(listener)

    async def _leave_network(self) -> None:
        for relay in self._relays:
            await relay.stop()
        self._relays.clear()
        if self._network is not None:
            os.close(self._network)
            self._network = None

    async def _is_running(self) -> bool:
        argv = self.inside("systemctl", "is-system-running")
        if argv is None:
            return False
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(asyncio.TimeoutError):
            output, _ = await asyncio.wait_for(process.communicate(), _WANTED_SECONDS)
            return output.strip() in _RUNNING
        process.kill()
        return False

    def inside(self, *words: str) -> list[str] | None:
        """Return the command that runs a program in the machine, None if the machine is off."""
        leader = self._groups.leader()
        return None if leader is None else entering.command(leader, words)

    async def wants_reboot(self) -> bool:
        """Wait until it is off; return whether it has to be booted again."""
        if self._process is None:
            return False
        # The local cloud's network has only one boot: the rules would survive in it.
        return await self._process.wait() == _REBOOT and self._joined is None

    async def power_off(self, grace_seconds: float) -> None:
        """Shut it down in an orderly way, at most so long, then pull the plug."""
        if self._process is None:
            return
        argv = self.inside("systemctl", "--no-block", "poweroff")
        if grace_seconds and argv:
            with contextlib.suppress(asyncio.TimeoutError):
                client = await asyncio.create_subprocess_exec(*argv, stdin=subprocess.DEVNULL)
                await asyncio.wait_for(
                    asyncio.gather(client.wait(), self._process.wait()), grace_seconds
                )
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Remove what is left of it when it is off."""
        await self._leave_network()
        self._groups.remove()
        # Nobody reads them any more; what else it has written stays.
        shutil.rmtree(self._images, ignore_errors=True)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
