"""The network of instances: each has a namespace of its own, joined to a bridge by a pair of veth.

The bridge has a namespace as well, so that the machine's network is never changed. On the loopback
of an instance, relays offer the two services of the local cloud at the addresses that they have on
the machine: its endpoint, and the metadata service.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from pathlib import Path

from runctl.local.core import peers
from runctl.local.core.peers import Address
from runctl.local.ec2.relay import Relay
from runctl.local.guest import network_namespaces

_BRIDGE = "br0"
# Those of the thread's own namespace.
_CONNECTIONS = Path("/proc/thread-self/net/tcp")
_INTERFACE = "eth0"
# One bridge plays the router of the VPC: all of its subnets are reached without a gateway. There is
# no other route, so that whatever is outside fails at once.
_PREFIX = 16


class Switch:
    """A bridge, in a network namespace that lives as long as this process."""

    def __init__(self) -> None:
        """Create it; raises OSError if the system refuses."""
        self._namespace = network_namespaces.create()
        self._numbers = itertools.count()
        commands = (f"link add {_BRIDGE} type bridge", f"link set {_BRIDGE} up")
        network_namespaces.configure(self._namespace, *commands)

    def join(self, address: str) -> Network:
        """Create a network with one address, joined to the bridge."""
        port, namespace = f"port{next(self._numbers)}", network_namespaces.create()
        try:
            network_namespaces.configure(
                self._namespace,
                f"link add {port} type veth peer name {_INTERFACE} "
                f"netns /proc/{os.getpid()}/fd/{namespace}",
                f"link set {port} master {_BRIDGE} up",
            )
            network_namespaces.configure(
                namespace,
                f"addr add {address}/{_PREFIX} dev {_INTERFACE}",
                f"link set {_INTERFACE} up",
            )
        except OSError:
            os.close(namespace)
            raise
        return Network(self, port, namespace)

    def configure(self, *commands: str) -> None:
        """Run commands of `ip` in the bridge's namespace."""
        network_namespaces.configure(self._namespace, *commands)


class Network:
    """The network of one instance."""

    def __init__(self, switch: Switch, port: str, namespace: int) -> None:
        self._switch, self._port = switch, port
        self.namespace = namespace
        self._endpoint_relay: Relay | None = None
        self._relays: list[Relay] = []

    async def offer(self, *, endpoint: int, metadata: int) -> None:
        """Offer two ports of this machine on the instance's loopback; only `endpoint` can be cut.

        The metadata service sees only this process behind its relay, which therefore admits nobody
        but the user of this process.
        """
        self._endpoint_relay = await self._relay(Relay(endpoint), endpoint)
        await self._relay(Relay(metadata, admits=self._is_own), metadata)

    def _is_own(self, client: Address, server: Address) -> bool:
        return network_namespaces.within(
            self.namespace, lambda: peers.is_own(client, server, table=_CONNECTIONS)
        )

    async def _relay(self, relay: Relay, port: int) -> Relay:
        listener = await asyncio.to_thread(
            network_namespaces.within,
            self.namespace,
            lambda: socket.create_server(("127.0.0.1", port), backlog=256),
        )
        await relay.start(listener)
        self._relays.append(relay)
        return relay

    async def cut(self) -> None:
        """Lose every packet between the instance and others, without telling either end."""
        if self._endpoint_relay:
            self._endpoint_relay.hold()
        # Not `down`: the instance would see that the cable is out.
        await asyncio.to_thread(self._switch.configure, f"link set {self._port} nomaster")

    async def restore(self) -> None:
        """Join the instance to the others again."""
        await asyncio.to_thread(self._switch.configure, f"link set {self._port} master {_BRIDGE}")
        if self._endpoint_relay:
            self._endpoint_relay.go_on()

    async def close(self) -> None:
        """Remove the network, which no process uses any more."""
        for relay in self._relays:
            await relay.stop()
        # With it disappears the other end of the pair.
        await asyncio.to_thread(self._switch.configure, f"link del {self._port}")
        os.close(self.namespace)
