"""The ready servers of a service, as the ledger shows them, each with a tunnel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runctl.cli.proxy.tunnel import Plugin, Tunnel
from runctl.model.errors import NotFoundError, RunctlError
from runctl.model.run import Attempt

if TYPE_CHECKING:
    from runctl.aws.sessions import PortSessions
    from runctl.model.agent_ledger import AgentLedger

FIRST_DELAY, MAX_DELAY = 0.5, 15.0
CHECK_SECONDS = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a server listens, and which attempt of a run it belongs to."""

    instance_id: str
    port: int
    run_id: str
    attempt: int


class RunOver(Exception):  # noqa: N818 - it is an end, not an error
    """A run of the service has ended."""


def find_ready(ledger: AgentLedger, run_id: str) -> Address | None:
    """Return the newest ready server of a run; RunOver when the run has ended.

    Only the attempt with the fence and the one after it may serve.
    """
    run = ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    if run.ended is not None:
        raise RunOver(f"{run_id} has ended: {run.ended.value}; {run.reason}")
    for number in (run.fence + 1, run.fence):
        attempt = ledger.find_attempt(run_id, number) if number else None
        if attempt is not None and (address := _address(attempt)) is not None:
            return address
    return None


def _address(attempt: Attempt) -> Address | None:
    service, lead = attempt.service, attempt.lead
    if attempt.ended is not None or service is None or lead is None or not service.is_ready:
        return None
    return Address(lead.instance_id, service.port, attempt.run_id, attempt.number)


class Targets:
    """Follows the runs of a service, and keeps a tunnel to the ready server of each.

    A tunnel is open before connections move to it, and closed once none uses it.
    """

    def __init__(
        self,
        ledger: AgentLedger,
        sessions: PortSessions,
        plugin: Plugin,
        *,
        run_ids: Sequence[str],
        pause: float,
        announce: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._plugin = plugin
        self._run_ids = tuple(run_ids)
        self._pause = pause
        self._announce = announce
        self._current: dict[str, tuple[Address, Tunnel]] = {}
        self._retired: list[Tunnel] = []
        self._retry_at: dict[str, tuple[float, float]] = {}
        self._changed = asyncio.Condition()
        self._checks: set[asyncio.Task[None]] = set()

    async def follow(self) -> None:
        """Follow the ledger until all runs have ended, which raises RunOver."""
        over: dict[str, str] = {}
        while True:
            for run_id in self._run_ids:
                try:
                    address = await asyncio.to_thread(find_ready, self._ledger, run_id)
                except RunOver as exc:
                    over[run_id] = str(exc)
                    address = None
                except RunctlError as exc:
                    logger.debug("%s cannot be looked up: %s", run_id, exc)
                    continue
                else:
                    over.pop(run_id, None)
                await self._update(run_id, address)
            if len(over) == len(self._run_ids):
                raise RunOver("; ".join(over.values()))
            await self._close_unused()
            await asyncio.sleep(self._pause)

    async def _update(self, run_id: str, address: Address | None) -> None:
        held = self._current.get(run_id)
        if held is not None and (held[0] != address or not held[1].is_open):
            if address is not None and held[1].is_open:
                # Connections stay with the old one until the new one is open.
                await self._open(run_id, address)
                return
            await self._retire(run_id)
            self._announce(f"{run_id}: attempt {held[0].attempt} is not ready any more")
        if address is not None and run_id not in self._current:
            await self._open(run_id, address)

    async def _open(self, run_id: str, address: Address) -> None:
        retry_at, delay = self._retry_at.get(run_id, (0.0, FIRST_DELAY))
        if time.monotonic() < retry_at:
            return
        tunnel = Tunnel(
            self._sessions,
            self._plugin,
            instance_id=address.instance_id,
            remote_port=address.port,
        )
        try:
            await tunnel.open()
        except RunctlError as exc:
            await tunnel.close()
            self._retry_at[run_id] = (time.monotonic() + delay, min(delay * 2, MAX_DELAY))
            self._announce(f"{run_id}: {exc}; trying again in {delay:.1f} s")
            return
        self._retry_at.pop(run_id, None)
        async with self._changed:
            if (held := self._current.get(run_id)) is not None:
                self._retired.append(held[1])
            self._current[run_id] = (address, tunnel)
            self._changed.notify_all()
        self._announce(f"{run_id}: attempt {address.attempt} is ready on {address.instance_id}")

    async def _retire(self, run_id: str) -> None:
        _, tunnel = self._current.pop(run_id)
        self._retired.append(tunnel)

    async def _close_unused(self) -> None:
        for tunnel in [each for each in self._retired if not each.connections or not each.is_open]:
            self._retired.remove(tunnel)
            await tunnel.close()

    def is_current(self, tunnel: Tunnel) -> bool:
        """Whether new requests go to a tunnel."""
        return tunnel.is_open and any(held is tunnel for _, held in self._current.values())

    def choose(self) -> Tunnel | None:
        """Return the tunnel with the fewest connections, None while no server is ready."""
        tunnels = [
            tunnel
            for _, tunnel in self._current.values()
            if tunnel.is_open and not tunnel.is_suspect
        ]
        return min(tunnels, key=lambda tunnel: tunnel.connections, default=None)

    async def wait(self, seconds: float) -> Tunnel | None:
        """Wait at most `seconds` for a tunnel; None if there is none by then."""

        async def wait() -> Tunnel:
            async with self._changed:
                while (tunnel := self.choose()) is None:
                    await self._changed.wait()
                return tunnel

        return await _within(wait, seconds)

    def suspect(self, tunnel: Tunnel) -> None:
        """Send no requests through a tunnel until its server is known to answer."""
        if not tunnel.is_suspect:
            tunnel.is_suspect = True
            task = asyncio.create_task(self._clear(tunnel))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)

    async def _clear(self, tunnel: Tunnel) -> None:
        while tunnel.is_open and tunnel.is_suspect:
            if await tunnel.answers():
                async with self._changed:
                    tunnel.is_suspect = False
                    self._changed.notify_all()
                return
            await asyncio.sleep(CHECK_SECONDS)

    async def close(self) -> None:
        """Close all tunnels."""
        tunnels = [tunnel for _, tunnel in self._current.values()] + self._retired
        self._current.clear()
        self._retired = []
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))


async def _within(wait: Callable[[], Awaitable[Tunnel]], seconds: float) -> Tunnel | None:
    try:
        return await asyncio.wait_for(wait(), seconds)
    except (TimeoutError, asyncio.TimeoutError):
        return None
