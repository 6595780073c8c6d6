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

from runctl.local.client import LocalCloudClient

VERSION = "1.2.764.0"
CHECK_SECONDS = 0.5
CHUNK_BYTES = 64 * 1024


def main(arguments: Sequence[str]) -> int:
    """Forward the port of a session until it ends.

    The arguments are those that the AWS CLI gives the plugin: the response of StartSession or the
    variable that contains it, region, operation, profile, the request, and the endpoint.
    """
    if list(arguments) == ["--version"]:
        print(VERSION)
        return 0
    response, _region, operation, _profile, request, endpoint = arguments
    if operation != "StartSession":
        print(f"{operation} is not supported", file=sys.stderr)
        return 1
    answer = json.loads(os.environ.get(response, response))
    local_port = int(json.loads(request)["Parameters"]["localPortNumber"][0])
    client = LocalCloudClient(endpoint)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_forward(client, answer["SessionId"], answer["TokenValue"], local_port))
    return 0


async def _forward(client: LocalCloudClient, session_id: str, token: str, local_port: int) -> None:
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
    # In the words of AWS's plugin, whose output tells its callers that it listens.
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
