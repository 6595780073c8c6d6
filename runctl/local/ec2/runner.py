"""The run of one instance, from its launch until its processes have ended."""

from __future__ import annotations

import asyncio
import gzip
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runctl.local.core.instance import CRASHED, Instance
from runctl.local.core.interpreter import base_python
from runctl.local.core.knobs import Knobs, Setup
from runctl.local.core.market import Market
from runctl.local.ec2 import disks
from runctl.local.ec2.imds import Metadata
from runctl.local.ec2.instance_events import InstanceEvents
from runctl.local.ec2.networks import Network, Switch
from runctl.local.ec2.supervisor import PACKAGE_ROOT, Supervisor
from runctl.local.guest import engine, isolation, own_user

logger = logging.getLogger(__name__)

_GZIP_MAGIC = b"\x1f\x8b"
# Where bootstrap.sh unpacks 1,400 files.
_AGENT = Path("/opt/runctl/agent")


@dataclass(frozen=True, kw_only=True)
class InstanceRunner:
    """Boots instances as processes of this machine, and cleans up after them."""

    endpoint: str
    market: Market
    setup: Setup
    events: InstanceEvents
    issue_credentials: Callable[[Instance], dict[str, str]]
    networks: dict[str, Network] = field(default_factory=dict)
    python: str = field(default_factory=base_python)

    @property
    def knobs(self) -> Knobs:
        """The knobs of the local cloud."""
        return self.setup.knobs

    @property
    def own_paths(self) -> bool:
        """Whether instances have a state folder and a /tmp of their own."""
        return not self.setup.shares_paths

    @property
    def own_user(self) -> bool:
        """Whether the programs of instances run as a user of their own."""
        return self.knobs.own_user

    async def run(
        self, instance: Instance, supervisor: Supervisor, *, on_shutdown: Callable[[], None]
    ) -> None:
        """Run an instance to its end; `on_shutdown`: it shuts itself down."""
        metadata = Metadata(instance, credentials=lambda: self.issue_credentials(instance))
        try:
            instance.has_own_network = self.knobs.own_networks
            instance.metadata_url = await metadata.start()
            if instance.has_own_network:
                await self._join(instance)
            await _wait_at_most(supervisor.ended.wait(), self.knobs.boot_delay)
            if instance.is_alive:
                await self._boot(instance, supervisor, on_shutdown)
        except Exception:
            logger.exception("instance %s failed", instance.instance_id)
            self.events.record(instance, "broken")
        finally:
            metadata.stop()
            if network := self.networks.pop(instance.instance_id, None):
                await network.close()
            if not self.setup.no_engine:
                await asyncio.to_thread(engine.remove_control_groups, _control_group(instance))
            self._clean_up(instance)
            await asyncio.to_thread(_remove_programs, instance)

    @cached_property
    def _switch(self) -> Switch:
        """What joins the instances, created with the first network."""
        return Switch()

    async def _join(self, instance: Instance) -> None:
        network = await asyncio.to_thread(self._switch.join, instance.private_ip)
        self.networks[instance.instance_id] = network
        endpoint, metadata = (urlsplit(url).port for url in (self.endpoint, instance.metadata_url))
        await network.offer(endpoint=endpoint or 0, metadata=metadata or 0)

    async def _boot(
        self, instance: Instance, supervisor: Supervisor, on_shutdown: Callable[[], None]
    ) -> None:
        instance.root.mkdir(parents=True, exist_ok=True)
        if self.knobs.disk_bytes:
            # The knob is the size of the template's root volume; a larger one is larger here, too.
            disks.mount(instance.root, int(self.knobs.disk_bytes * instance.disk_scale))
            instance.has_own_disk = True
        if self.own_user:
            # No other user of the machine comes so far: the folder above it is private.
            instance.root.chmod(0o755)
        for folder in ("tmp", "var/log", "var/lib/cloud", "etc/systemd/system", "run"):
            _make_as_on_ec2(instance.root, folder)
        network = self.networks.get(instance.instance_id)
        await supervisor.start(
            instance,
            self.python,
            self._settings(instance, network),
            program=self.knobs.first_process,
            descriptors=[network.namespace] if network else [],
        )
        if not instance.is_alive:  # terminated while it booted
            supervisor.power_off(0)
        else:
            instance.state = "running"
            self.events.record(instance, "booted")
            self.events.publish_state(instance)
        background = {
            asyncio.ensure_future(self._run_user_data(instance, supervisor)),
            asyncio.ensure_future(self._register_agent(instance)),
        }
        await supervisor.listen(on_shutdown)
        for task in background:
            task.cancel()

    def _settings(self, instance: Instance, network: Network | None) -> dict[str, Any]:
        """Return the settings of an instance's first process."""
        return {
            "root": str(instance.root),
            "python": self.python,
            "grace_seconds": self.knobs.shutdown_grace,
            "env": self._environment(instance),
            "own_paths": self.own_paths,
            "own_user": self.own_user,
            "shared_folders": self._shared_folders(instance),
            "network": network
            and {
                "namespace": network.namespace,
                "host_name": instance.private_dns,
                "address": instance.private_ip,
            },
            "control_group": "" if self.setup.no_engine else _control_group(instance),
        }

    def _environment(self, instance: Instance) -> dict[str, str]:
        root = str(instance.root)
        path = [f"{root}/bin", str(Path(self.python).parent), engine.PATH]
        return {
            "RUNCTL_ROOT": root,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.metadata_url,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": instance.region,
            # Instances have one network: two servers of a run cannot have the same port.
            "RUNCTL_FREE_PORTS": "1",
            "LANG": "C.UTF-8",
            "PATH": ":".join(path),
            "DOCKER_HOST": engine.NO_HOST if self.setup.no_engine else engine.HOST,
            **self._own_folders(root),
            **({"RUNCTL_TRAINER_USER": own_user.NAME} if self.own_user else {}),
            **self.knobs.environment,
        }

    def _own_folders(self, root: str) -> dict[str, str]:
        if not self.own_paths:
            return {"HOME": root, "TMPDIR": str(Path(root, "tmp"))}
        return {"HOME": str(isolation.HOME), "RUNCTL_STATE_DIR": str(isolation.STATE)}

    def _shared_folders(self, instance: Instance) -> list[str]:
        """List what an instance needs of this machine, in case it is below a folder of its own."""
        needed = {PACKAGE_ROOT, Path(self.python).resolve().parents[1]}
        if not self.own_user:
            needed.add(instance.root.parent)
        elif instance.has_own_disk:
            instance.console_log.touch()
            needed.add(instance.console_log)
        return [*map(str, needed - {Path("/")}), *self.knobs.shared_folders]

    async def _run_user_data(self, instance: Instance, supervisor: Supervisor) -> None:
        data = instance.user_data
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        if not data.startswith(b"#!"):
            if data:
                reason = "it does not begin with #!"
                self.events.record(instance, "user-data-ignored", reason=reason)
            return
        script = instance.root / "var/lib/cloud/user-data"
        script.write_bytes(data)
        script.chmod(0o700)
        status = await supervisor.run([str(script)], output=instance.console_log)
        self.events.record(instance, "user-data-ended", status=status)

    async def _register_agent(self, instance: Instance) -> None:
        await asyncio.sleep(self.knobs.agent_delay)
        instance.agent_ready = True

    def _clean_up(self, instance: Instance) -> None:
        if instance.is_alive:
            instance.end = CRASHED
        end = instance.end or CRASHED
        instance.state, instance.agent_ready = end.state, False
        self.market.give_back(instance.pool)
        self.events.record(instance, end.state, reason=end.journal_reason)
        self.events.publish_state(instance)
        if instance.has_own_disk:
            disks.unmount(instance.root)
        if not self.knobs.keep_roots and end.state == "terminated":
            shutil.rmtree(instance.root, ignore_errors=True)


def _remove_programs(instance: Instance) -> None:
    """Remove what is large or has many files and nobody reads after the end of an instance."""
    folders = [engine.DATA]
    if instance.state == "terminated":
        folders.append(_AGENT)
    for folder in folders:
        shutil.rmtree(instance.root / folder.relative_to("/"), ignore_errors=True)


def _control_group(instance: Instance) -> str:
    return f"runctl-{instance.instance_id}"


def _make_as_on_ec2(root: Path, folder: str) -> None:
    """Make a folder of an instance with the modes that it has there; the root itself is private."""
    path = root
    for part in Path(folder).parts:
        path /= part
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


async def _wait_at_most(waiting: Awaitable[Any], seconds: float) -> None:
    try:
        await asyncio.wait_for(waiting, seconds)
    except (asyncio.TimeoutError, TimeoutError):
        return
