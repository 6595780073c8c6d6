"""The daemon: ministack, behind a gateway that answers instance-level calls itself."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from runctl.local.core import keys, private
from runctl.local.core.interpreter import base_python
from runctl.local.core.keys import Keys
from runctl.local.core.knobs import Knobs, Setup
from runctl.local.ec2 import disks
from runctl.local.guest import permitted
from runctl.local.guest.processes import die_with_parent

if TYPE_CHECKING:
    from runctl.local.server.gateway import Gateway

REGION, ACCOUNT = "us-east-1", "000000000000"
_KEEP_ALIVE_SECONDS = 75


def main() -> None:
    """Serve a local cloud until it is asked to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--own-disks", action="store_true")
    parser.add_argument("--disk-bytes", type=int, default=0)
    parser.add_argument("--shared-paths", action="store_true")
    parser.add_argument("--own-networks", action="store_true")
    parser.add_argument("--own-user", action=argparse.BooleanOptionalAction)
    parser.add_argument("--shared-folder", action="append", default=[])
    options = parser.parse_args()
    os.umask(private.UMASK)
    private.make_folder(options.home)
    refused = ""
    if options.own_disks:
        # First, since a process with threads cannot enter a namespace. Only disks need it.
        try:
            disks.enter_own_namespace()
        except OSError as exc:
            refused = str(exc)
    # Also before there are threads, since it forks.
    shares = (
        "it was started with this setting"
        if options.shared_paths
        else permitted.why_shared_paths(options.home)
    )
    shares_network = permitted.why_shared_network(shares)
    shares_user = permitted.why_same_user(options.home, base_python(), shares)
    if options.parent:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != options.parent:
            return  # it ended before we could ask
    lock = (options.home / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another one was started here at the same moment, and wins
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if refused and options.disk_bytes:
        raise SystemExit(f"instances cannot have disks of their own: {refused}")
    if shares_user and options.own_user:
        raise SystemExit(f"programs cannot have a user of their own: {shares_user}")
    for what, reason in {
        "instances cannot have disks of their own": refused,
        "instances share the machine's paths and /tmp": shares,
        "programs run as the user of the local cloud": shares_user,
        "instances share the machine's network": options.own_networks and shares_network,
    }.items():
        if reason:
            logging.warning("%s: %s", what, reason)
    listener = socket.create_server(("127.0.0.1", options.port), backlog=256)
    port = int(listener.getsockname()[1])
    os.environ.pop("PYTHONPATH", None)  # it has found this package; functions must not see it
    own_keys = keys.generate()
    keys.save(options.home, own_keys)
    _configure_ministack(options.home, port, own_keys)
    setup = Setup(
        shares_paths=shares,
        shares_network=shares_network,
        shares_user=shares_user,
        no_engine=permitted.why_no_engine(shares),
        knobs=Knobs(
            disk_bytes=options.disk_bytes,
            own_networks=options.own_networks and not shares_network,
            own_user=options.own_user is not False and not shares_user,
            shared_folders=options.shared_folder,
        ),
    )
    asyncio.run(_serve(options.home, listener, own_keys, setup))


def _configure_ministack(home: Path, port: int, own_keys: Keys) -> None:
    """Set what ministack reads on import, and later to recognize its administrator."""
    os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": own_keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": own_keys.secret_access_key,
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": REGION,
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "LAMBDA_EXECUTOR": "local",
        "STATE_DIR": str(home / "tmp/state"),
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        # Never the machine's Docker: instances are processes here.
        "DOCKER_HOST": f"unix://{home}/no-docker.sock",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


async def _serve(home: Path, listener: socket.socket, own_keys: Keys, setup: Setup) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    from runctl.local.server.gateway import build
    from runctl.local.server.guard import Guard

    port = int(listener.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    gateway = build(home, url=url, account=ACCOUNT, region=REGION, setup=setup)
    guard = Guard(gateway, keys=own_keys, port=port, account=ACCOUNT)
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS
    config.graceful_timeout = 1
    config.accesslog = None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    announcement = asyncio.create_task(_announce(home, url, gateway))
    try:
        await serve(guard, config, shutdown_trigger=stop.wait)
    finally:
        announcement.cancel()
        (home / "endpoint.json").unlink(missing_ok=True)
        keys.remove(home)
        await asyncio.to_thread(gateway.close)
    logging.shutdown()
    os._exit(0)  # otherwise ministack's worker threads would keep the process alive


async def _announce(home: Path, url: str, gateway: Gateway) -> None:
    await gateway.ready.wait()
    about = {"endpoint": url, "pid": os.getpid(), "region": REGION, "account": ACCOUNT}
    private.write(home / "endpoint.json", json.dumps(about))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
