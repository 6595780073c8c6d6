"""The instances of the local cloud: their life from launch to the end, as real process groups."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import runctl
from runctl.local.core.events import EventBus
from runctl.local.core.instance import (
    CRASHED,
    RECLAIMED,
    End,
    Instance,
    base_python,
    ended_by_itself,
)
from runctl.local.core.journal import Journal
from runctl.local.core.knobs import Knobs
from runctl.local.core.market import Market
from runctl.local.core.protocol import ApiError
from runctl.local.ec2 import disks
from runctl.local.ec2.imds import Metadata
from runctl.local.guest import isolation

logger = logging.getLogger(__name__)

_CONSOLE_LIMIT = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_PACKAGE_ROOT = Path(runctl.__file__).parents[1]
_START_SUPERVISOR = (
    f"import sys; sys.path.insert(0, {str(_PACKAGE_ROOT)!r}); "
    "from runctl.local.guest.init import main; main()"
)


@dataclass
class _Handle:
    """What the host thread holds of a living instance."""

    ended: asyncio.Event
    process: asyncio.subprocess.Process | None = None
    jobs: dict[str, asyncio.Future[int]] = field(default_factory=dict)
    timed_out: set[str] = field(default_factory=set)


class Instances:
    """Every instance since the local cloud began; their processes are run from one thread."""

    def __init__(
        self,
        home: Path,
        *,
        endpoint: str,
        market: Market,
        knobs: Knobs,
        journal: Journal,
        bus: EventBus,
        issue_credentials: Callable[[Instance], dict[str, str]],
        own_paths: bool,
    ) -> None:
        self.home, self.endpoint = home, endpoint
        self.market, self.knobs, self.journal, self.bus = market, knobs, journal, bus
        self._issue_credentials, self._own_paths = issue_credentials, own_paths
        self._all: dict[str, Instance] = {}
        self._handles: dict[str, _Handle] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, daemon=True, name="instances"
        )
        self._thread.start()
        self.python = base_python()

    def all(self) -> list[Instance]:
        """List every instance, the ended ones too."""
        return list(self._all.values())

    def get(self, instance_id: str) -> Instance:
        """Find an instance, or refuse as EC2 does."""
        if not instance_id.startswith("i-") or len(instance_id) not in {10, 19}:
            raise ApiError("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
        instance = self._all.get(instance_id)
        if instance is None or time.monotonic() < instance.visible_at:
            raise ApiError(
                "InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist"
            )
        return instance

    def launch(self, instance: Instance) -> None:
        """Begin an instance's life."""
        instance.visible_at = time.monotonic() + self.knobs.not_found_for
        self._all[instance.instance_id] = instance
        self.market.take(instance.pool)
        handle = _Handle(ended=asyncio.Event())
        self._handles[instance.instance_id] = handle
        self._note(instance, "launched")
        self._tell_state(instance)
        asyncio.run_coroutine_threadsafe(self._live(instance, handle), self._loop)

    def terminate(
        self, instance: Instance, end: End, *, grace_seconds: float | None = None
    ) -> None:
        """Bring an instance's end about; one that is ending already keeps its reason."""
        if instance.state in {"stopped", "stopping"}:
            instance.state, instance.end = "terminated", end
            self._note(instance, "terminated", reason=end.journal_reason)
            return
        if not instance.is_alive:
            return
        instance.end = end
        instance.state = "stopping" if end.state == "stopped" else "shutting-down"
        self._note(instance, instance.state, reason=end.journal_reason)
        self._tell_state(instance)
        grace = self.knobs.shutdown_grace if grace_seconds is None else grace_seconds
        self._loop.call_soon_threadsafe(self._power_off, instance.instance_id, grace)

    def interrupt(self, instance: Instance, *, notice: bool, notice_seconds: float) -> None:
        """Reclaim a spot instance, after a notice or at once."""
        if instance.lifecycle != "spot" or not instance.is_alive:
            raise ApiError(
                "IncorrectInstanceState",
                f"{instance.instance_id} is not a living spot instance",
            )
        if not notice:
            self.terminate(instance, RECLAIMED, grace_seconds=0)
            return
        if instance.notice:
            raise ApiError("IncorrectState", f"{instance.instance_id} has its notice already")
        # EventBridge's event and the metadata appear together; neither waits for the other.
        self.bus.publish(
            "EC2 Spot Instance Interruption Warning",
            {"instance-id": instance.instance_id, "instance-action": "terminate"},
            resource=f"arn:aws:ec2:{instance.zone}:instance/{instance.instance_id}",
        )
        instance.notice = datetime.now(timezone.utc) + timedelta(seconds=notice_seconds)
        self._note(instance, "notice", deadline=instance.notice.isoformat())
        self.call_later(
            notice_seconds, lambda: self.terminate(instance, RECLAIMED, grace_seconds=0)
        )

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call in the instances' thread, after some seconds."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, call)

    def recommend_rebalance(self, instance: Instance) -> None:
        """Tell that the instance is at elevated risk."""
        if instance.lifecycle != "spot" or not instance.is_alive:
            raise ApiError(
                "IncorrectInstanceState",
                f"{instance.instance_id} is not a living spot instance",
            )
        self.bus.publish(
            "EC2 Instance Rebalance Recommendation",
            {"instance-id": instance.instance_id},
            resource=instance.arn,
        )
        instance.rebalance = datetime.now(timezone.utc)
        self._note(instance, "rebalance")

    async def run_job(
        self,
        instance: Instance,
        argv: list[str],
        *,
        output: Path,
        errors: Path | None = None,
        timeout_seconds: float | None = None,
    ) -> int | None:
        """Run a program on an instance; None means that its time or the instance ended."""
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(
                self._run_job(instance, argv, output, errors, timeout_seconds), self._loop
            )
        )

    def end_all(self) -> None:
        """Kill every instance and wait until nothing of them is left."""

        async def kill() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for instance_id in list(self._handles):
                self._power_off(instance_id, 0.0)
            if tasks:
                await asyncio.wait(tasks, timeout=10)

        asyncio.run_coroutine_threadsafe(kill(), self._loop).result(timeout=15)

    def _note(self, instance: Instance, what: str, **fields: Any) -> None:
        self.journal.add(
            instance_id=instance.instance_id, what=what, pool=str(instance.pool), **fields
        )

    def _tell_state(self, instance: Instance) -> None:
        self.bus.publish(
            "EC2 Instance State-change Notification",
            {"instance-id": instance.instance_id, "state": instance.state},
            resource=instance.arn,
        )

    async def _live(self, instance: Instance, handle: _Handle) -> None:
        metadata = Metadata(instance, credentials=lambda: self._issue_credentials(instance))
        try:
            instance.metadata_url = await metadata.start()
            await _first(handle.ended.wait(), self.knobs.boot_delay)
            if instance.is_alive:
                await self._boot(instance, handle)
        except Exception:
            logger.exception("instance %s broke", instance.instance_id)
            self._note(instance, "broken")
        finally:
            metadata.stop()
            self._bury(instance)

    async def _boot(self, instance: Instance, handle: _Handle) -> None:
        instance.root.mkdir(parents=True, exist_ok=True)
        if self.knobs.disk_bytes:
            disks.mount(instance.root, self.knobs.disk_bytes)
            instance.has_own_disk = True
        for folder in ("tmp", "var/log", "var/lib/cloud", "etc/systemd/system", "run"):
            _make_as_on_ec2(instance.root, folder)
        with (instance.root / "var/log/supervisor.log").open("ab") as log:
            handle.process = await asyncio.create_subprocess_exec(
                *(self.python, "-I", "-S", "-c", _START_SUPERVISOR, instance.instance_id),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={},
                cwd=instance.root,
            )
        instance.supervisor_pid = handle.process.pid
        self._order(
            handle,
            root=str(instance.root),
            python=self.python,
            grace_seconds=self.knobs.shutdown_grace,
            env=self._environment(instance),
            own_paths=self._own_paths,
            shared_folders=self._shared_folders(instance),
        )
        if not instance.is_alive:  # terminated while it booted
            self._order(handle, do="power_off", grace_seconds=0)
        else:
            instance.state = "running"
            self._note(instance, "booted")
            self._tell_state(instance)
        background = {asyncio.ensure_future(self._run_user_data(instance, handle))}
        background.add(asyncio.ensure_future(self._register_agent(instance)))
        await self._listen(instance, handle)
        for task in background:
            task.cancel()

    def _environment(self, instance: Instance) -> dict[str, str]:
        root = str(instance.root)
        path = [f"{root}/bin", str(Path(self.python).parent)]
        path += ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        return {
            "RUNCTL_ROOT": root,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.metadata_url,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": instance.region,
            "LANG": "C.UTF-8",
            "PATH": ":".join(path),
            **self._own_folders(root),
            **self.knobs.environment,
        }

    def _own_folders(self, root: str) -> dict[str, str]:
        if not self._own_paths:
            return {"HOME": root, "TMPDIR": str(Path(root, "tmp"))}
        return {"HOME": str(isolation.HOME), "RUNCTL_STATE_DIR": str(isolation.STATE)}

    def _shared_folders(self, instance: Instance) -> list[str]:
        """List what an instance needs to see of the machine, should it lie below /tmp."""
        needed = {instance.root.parent, _PACKAGE_ROOT, Path(self.python).resolve().parents[1]}
        return [*map(str, needed - {Path("/")}), *self.knobs.shared_folders]

    async def _run_user_data(self, instance: Instance, handle: _Handle) -> None:
        data = instance.user_data
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        if not data.startswith(b"#!"):
            if data:
                self._note(instance, "user-data-ignored", reason="it does not begin with #!")
            return
        script = instance.root / "var/lib/cloud/user-data"
        script.write_bytes(data)
        script.chmod(0o700)
        status = await self._job(handle, [str(script)], output=instance.console_log)
        self._note(instance, "user-data-ended", status=status)

    async def _register_agent(self, instance: Instance) -> None:
        await asyncio.sleep(self.knobs.agent_delay)
        instance.agent_ready = True

    async def _run_job(
        self,
        instance: Instance,
        argv: list[str],
        output: Path,
        errors: Path | None,
        timeout_seconds: float | None,
    ) -> int | None:
        handle = self._handles.get(instance.instance_id)
        if handle is None or handle.process is None:
            return None
        return await self._job(
            handle, argv, output=output, errors=errors, timeout_seconds=timeout_seconds
        )

    async def _job(
        self,
        handle: _Handle,
        argv: list[str],
        *,
        output: Path,
        errors: Path | None = None,
        timeout_seconds: float | None = None,
    ) -> int | None:
        job = secrets.token_hex(8)
        future = self._loop.create_future()
        handle.jobs[job] = future
        self._order(
            handle,
            do="run",
            job=job,
            argv=argv,
            output=str(output),
            errors=str(errors) if errors else None,
            timeout_seconds=timeout_seconds,
        )
        try:
            status: int = await future
        except asyncio.CancelledError:
            return None
        return None if job in handle.timed_out else status

    async def _listen(self, instance: Instance, handle: _Handle) -> None:
        process = handle.process
        if process is None or process.stdout is None:
            raise RuntimeError("the supervisor has not been started")
        async for line in process.stdout:
            event = json.loads(line)
            job = event.get("job", "")
            if event["event"] == "ended" and job in handle.jobs:
                handle.jobs.pop(job).set_result(event["status"])
            elif event["event"] == "timed_out":
                handle.timed_out.add(job)
            elif event["event"] == "shutdown":
                self._shut_down(instance)
        for future in handle.jobs.values():
            future.cancel()
        await process.wait()

    def _shut_down(self, instance: Instance) -> None:
        # A spot instance that was launched by an instant fleet cannot be stopped.
        behavior = "terminate" if instance.lifecycle == "spot" else instance.shutdown_behavior
        if instance.is_alive:
            self.terminate(instance, ended_by_itself(behavior))

    def _bury(self, instance: Instance) -> None:
        if instance.is_alive:
            instance.end = CRASHED
        self._handles.pop(instance.instance_id, None)
        end = instance.end or CRASHED
        instance.state, instance.agent_ready = end.state, False
        self.market.give_back(instance.pool)
        self._note(instance, end.state, reason=end.journal_reason)
        self._tell_state(instance)
        if instance.has_own_disk:
            disks.unmount(instance.root)
        if not self.knobs.keep_roots and end.state == "terminated":
            shutil.rmtree(instance.root, ignore_errors=True)

    def _power_off(self, instance_id: str, grace_seconds: float) -> None:
        handle = self._handles.get(instance_id)
        if handle is None:
            return
        handle.ended.set()
        if handle.process:
            self._order(handle, do="power_off", grace_seconds=grace_seconds)

    @staticmethod
    def _order(handle: _Handle, **order: Any) -> None:
        if handle.process and handle.process.stdin and not handle.process.stdin.is_closing():
            handle.process.stdin.write(json.dumps(order).encode() + b"\n")

    def console_output(self, instance: Instance) -> bytes:
        """Read what the user data printed."""
        try:
            return instance.console_log.read_bytes()[-_CONSOLE_LIMIT:]
        except OSError:
            return b""


def _make_as_on_ec2(root: Path, folder: str) -> None:
    """Make a folder of an instance with the modes that it has there; the root itself is private."""
    path = root
    for part in Path(folder).parts:
        path /= part
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


async def _first(waiting: Awaitable[Any], seconds: float) -> None:
    try:
        await asyncio.wait_for(waiting, seconds)
    except (asyncio.TimeoutError, TimeoutError):
        return
