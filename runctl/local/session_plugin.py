"""The local cloud's session-manager-plugin: it is called like AWS's, and forwards one port.

It connects to the port of the instance directly, since instances have the network of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from runctl.local.client import LocalCloudClient

VERSION = "1.2.764.0"
VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"
CHECK_SECONDS = 0.5
CHUNK_BYTES = 64 * 1024


def main(arguments: Sequence[str]) -> int:
    """Forward the port of a session until it ends.

    The arguments are those that the AWS CLI gives the plugin: the response of StartSession or the
    variable that contains it, region, operation, profile, the request, and the endpoint. Whatever
    AWS's plugin could not use ends this one, too; like that, it returns 0 and says why.
    """
    if list(arguments) == ["--version"]:
        print(VERSION)
        return 0
    try:
        call = _read(arguments)
    except (KeyError, TypeError, ValueError) as exc:
        print(f"Cannot perform start session: {exc!r}")
        return 0
    print(f"\nStarting session with SessionId: {call.session_id}", flush=True)
    client = LocalCloudClient(call.endpoint)
    try:
        asyncio.run(_forward(client, call))
    except KeyboardInterrupt:
        print("Terminate signal received, exiting.")
    return 0


@dataclass(frozen=True)
class _Call:
    session_id: str
    token: str
    local_port: int
    endpoint: str


def _read(arguments: Sequence[str]) -> _Call:
    """Read the arguments; KeyError, TypeError or ValueError for what AWS's plugin refuses."""
    response, region, operation, profile, request, endpoint = arguments
    if operation != "StartSession":
        raise ValueError(f"Invalid Operation {operation}")
    if not region or not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"no region and endpoint: {region!r}, {endpoint!r}")
    if profile.startswith("{"):
        raise ValueError("the request is where the profile belongs")
    answer = json.loads(os.environ.pop(VARIABLE, "") if response == VARIABLE else response)
    given = json.loads(request)
    fields = [answer["SessionId"], answer["TokenValue"], answer["StreamUrl"], given["Target"]]
    (remote,), (local,) = (given["Parameters"][name] for name in ("portNumber", "localPortNumber"))
    if not all(isinstance(field, str) and field for field in [*fields, remote, local]):
        raise TypeError(f"not all of {[*map(type, fields)]} are texts")
    return _Call(answer["SessionId"], answer["TokenValue"], int(local), endpoint)


async def _forward(client: LocalCloudClient, call: _Call) -> None:
    session_id, token, local_port = call.session_id, call.token, call.local_port
    session = await asyncio.to_thread(client.session, session_id, token)
    carried: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        carried.add(task)
        task.add_done_callback(carried.discard)
        try:
            there = await asyncio.open_connection("127.0.0.1", session["port"])
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

    server = await asyncio.start_server(carry, "127.0.0.1", local_port)
    # In the words of AWS's plugin, by which its callers know that it listens.
    print(f"Port {local_port} opened for sessionId {session_id}.", flush=True)
    print("Waiting for connections...", flush=True)
    async with server:
        while (await asyncio.to_thread(client.session, session_id, token))["is_active"]:
            await asyncio.sleep(CHECK_SECONDS)
    for task in carried:
        task.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
