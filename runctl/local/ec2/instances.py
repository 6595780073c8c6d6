"""The instances of the local cloud: their states, and the requests that change them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from runctl.local.core.events import EventBus
from runctl.local.core.instance import RECLAIMED, End, Instance, ended_by_itself
from runctl.local.core.journal import Journal
from runctl.local.core.knobs import Setup
from runctl.local.core.market import Market
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.instance_events import InstanceEvents
from runctl.local.ec2.runner import InstanceRunner
from runctl.local.ec2.supervisor import Supervisor

_CONSOLE_LIMIT = 64 * 1024


class Instances:
    """Every instance since the local cloud began; their processes are run from one thread."""

    def __init__(
        self,
        home: Path,
        *,
        endpoint: str,
        market: Market,
        journal: Journal,
        bus: EventBus,
        issue_credentials: Callable[[Instance], dict[str, str]],
        setup: Setup,
    ) -> None:
        self.home = home
        knobs = setup.knobs
        self.market, self.knobs, self.journal, self.bus = market, knobs, journal, bus
        self._events = InstanceEvents(journal, bus)
        self._runner = InstanceRunner(
            endpoint=endpoint,
            market=market,
            setup=setup,
            events=self._events,
            issue_credentials=issue_credentials,
        )
        self._all: dict[str, Instance] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, daemon=True, name="instances"
        )
        self._thread.start()

    def is_placed(self, group: str) -> bool:
        """Return whether a placement group has instances."""
        return any(found.is_alive and found.placement_group == group for found in self.all())

    def all(self) -> list[Instance]:
        """List every instance, including those that have ended."""
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
        """Launch an instance; it boots in the instances' thread."""
        instance.visible_at = time.monotonic() + self.knobs.not_found_for
        self._all[instance.instance_id] = instance
        self.market.take(instance.pool)
        supervisor = Supervisor()
        self._supervisors[instance.instance_id] = supervisor
        self._events.record(instance, "launched")
        self._events.publish_state(instance)
        asyncio.run_coroutine_threadsafe(self._run(instance, supervisor), self._loop)

    async def _run(self, instance: Instance, supervisor: Supervisor) -> None:
        try:
            await self._runner.run(
                instance, supervisor, on_shutdown=lambda: self._shut_down(instance)
            )
        finally:
            self._supervisors.pop(instance.instance_id, None)

    def _shut_down(self, instance: Instance) -> None:
        # A spot instance that was launched by an instant fleet cannot be stopped.
        behavior = "terminate" if instance.lifecycle == "spot" else instance.shutdown_behavior
        if instance.is_alive:
            self.terminate(instance, ended_by_itself(behavior))

    def terminate(
        self, instance: Instance, end: End, *, grace_seconds: float | None = None
    ) -> None:
        """End an instance; if it is already ending, it keeps its reason."""
        if instance.state in {"stopped", "stopping"}:
            instance.state, instance.end = "terminated", end
            self._events.record(instance, "terminated", reason=end.journal_reason)
            return
        if not instance.is_alive:
            return
        instance.end = end
        instance.state = "stopping" if end.state == "stopped" else "shutting-down"
        self._events.record(instance, instance.state, reason=end.journal_reason)
        self._events.publish_state(instance)
        grace = self.knobs.shutdown_grace if grace_seconds is None else grace_seconds
        self._loop.call_soon_threadsafe(self._power_off, instance.instance_id, grace)

    def _power_off(self, instance_id: str, grace_seconds: float) -> None:
        if supervisor := self._supervisors.get(instance_id):
            supervisor.power_off(grace_seconds)

    def interrupt(self, instance: Instance, *, notice: bool, notice_seconds: float) -> None:
        """Reclaim a spot instance, after a notice or at once."""
        _check_spot(instance)
        if not notice:
            self.terminate(instance, RECLAIMED, grace_seconds=0)
            return
        if instance.notice:
            raise ApiError("IncorrectState", f"{instance.instance_id} already has a notice")
        # EventBridge's event and the metadata appear together; neither waits for the other.
        self._events.publish_warning(instance)
        instance.notice = datetime.now(timezone.utc) + timedelta(seconds=notice_seconds)
        self._events.record(instance, "notice", deadline=instance.notice.isoformat())
        self.call_later(
            notice_seconds, lambda: self.terminate(instance, RECLAIMED, grace_seconds=0)
        )

    def recommend_rebalance(self, instance: Instance) -> None:
        """Report that the instance is at elevated risk."""
        _check_spot(instance)
        self._events.publish_rebalance(instance)
        instance.rebalance = datetime.now(timezone.utc)
        self._events.record(instance, "rebalance")

    def set_network(self, instance: Instance, *, is_cut: bool) -> None:
        """Cut an instance off from AWS and from other instances, or join it to them again."""
        network = self._runner.networks.get(instance.instance_id)
        if network is None:
            raise ApiError(
                "IncorrectState",
                f"{instance.instance_id} has no network of its own; set the knob own_networks "
                "before it boots, and cut the network of a running instance",
            )
        change = network.cut() if is_cut else network.restore()
        asyncio.run_coroutine_threadsafe(change, self._loop).result(timeout=30)
        self._events.record(instance, "network-cut" if is_cut else "network-restored")

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in the instances' thread after some seconds."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, call)

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

        async def run() -> int | None:
            supervisor = self._supervisors.get(instance.instance_id)
            if supervisor is None or not supervisor.has_started:
                return None
            return await supervisor.run(
                argv, output=output, errors=errors, timeout_seconds=timeout_seconds
            )

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))

    def end_all(self) -> None:
        """Kill every instance and wait until nothing of them is left."""

        async def kill() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for instance_id in list(self._supervisors):
                self._power_off(instance_id, 0.0)
            if tasks:
                await asyncio.wait(tasks, timeout=10)

        asyncio.run_coroutine_threadsafe(kill(), self._loop).result(timeout=15)

    def console_output(self, instance: Instance) -> bytes:
        """Read the output of the user data."""
        try:
            return instance.console_log.read_bytes()[-_CONSOLE_LIMIT:]
        except OSError:
            return b""


def _check_spot(instance: Instance) -> None:
    if instance.lifecycle != "spot" or not instance.is_alive:
        raise ApiError(
            "IncorrectInstanceState",
            f"{instance.instance_id} is not a running or pending Spot Instance",
        )
