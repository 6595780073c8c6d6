"""A service under load, interrupted with notices: requests lost, their times, and the proxy's cost.

Clients send one request after another through `runctl aws connect` on a local cloud while the
serving instance is taken three times, each time with a notice. Half of them send POST, which the
proxy never repeats. A request counts as lost if it has no answer or one other than 200.

The cost of the proxy is the time of a request through it, less that of the same request sent to the
server directly, one client, one after another; wrk, if it is installed, adds the rate of eight
connections. On the local cloud a request passes the proxy and the program in place of AWS's plugin,
and no network.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runctl.local import daemon
from runctl.local.deploy import deploy
from runctl.local.testbed import Testbed, wait_for

PROJECT = Path(__file__).parents[1]
RUN = "service"
BODY = b"x" * 200
SERVER = """
import asyncio, os, re, signal

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.I)

async def answer(reader, writer):
    open_now.add(writer)
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            busy.add(writer)
            if found := LENGTH.search(head):
                await reader.readexactly(int(found[1]))
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
            await writer.drain()
            busy.discard(writer)
            if is_ending.is_set():
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    open_now.discard(writer)
    busy.discard(writer)
    writer.close()

async def main():
    global is_ending
    is_ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_ending.set)
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["PORT"]), backlog=1024)
    await is_ending.wait()
    server.close()
    while busy:
        await asyncio.sleep(0.01)

open_now, busy = set(), set()
asyncio.run(main())
"""


@dataclass
class Load:
    """Clients of one port, with the seconds of each answered request and what was lost."""

    port: int
    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def send(self, connection: http.client.HTTPConnection, method: str) -> None:
        """Send one request."""
        began = time.perf_counter()
        connection.request(method, "/", BODY if method == "POST" else None)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise OSError(f"{answer.status} {content!r}")
        self.seconds.append(time.perf_counter() - began)

    def repeat(self, method: str, until: threading.Event) -> None:
        """Send requests until the event."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        while not until.is_set():
            try:
                self.send(connection, method)
            except (OSError, http.client.HTTPException) as exc:
                self.lost.append(f"{method}: {exc!r}")
                connection.close()
        connection.close()

    @contextlib.contextmanager
    def running(self, clients: int) -> Iterator[None]:
        """Send requests meanwhile."""
        until = threading.Event()
        threads = [
            threading.Thread(target=self.repeat, args=(("GET", "POST")[number % 2], until))
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            until.set()
            for thread in threads:
                thread.join()


def start(testbed: Testbed, code: str) -> None:
    """Start the service."""
    serve = {"port": 8080, "drain_seconds": 5}
    testbed.workflow.start_run(
        RUN, {"kind": "serve", "script": code, "serve": serve, "max_attempts": 100}
    )


def upload(testbed: Testbed) -> str:
    """Upload the server, and return its URI."""
    bucket = testbed.deployment.bucket
    testbed.clients.get("s3").put_object(Bucket=bucket, Key="code/serve.py", Body=SERVER.encode())
    return f"s3://{bucket}/code/serve.py"


def await_ready(testbed: Testbed, attempt: int) -> int:
    """Wait for the server of an attempt, and return its port."""

    def check() -> int | None:
        found = testbed.ledger.find_attempt(RUN, attempt)
        service = None if found is None else found.service
        return service.port if service is not None and service.is_ready else None

    return wait_for(check, f"attempt {attempt} to be ready: {testbed.story(RUN)}")


@contextlib.contextmanager
def connected(testbed: Testbed) -> Iterator[int]:
    """Run `runctl --local aws connect` meanwhile, and return its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    proxy = subprocess.Popen(
        [
            *(sys.executable, "-m", "runctl.cli.main", "--local", "aws", "connect", RUN),
            *("--local-port", str(port)),
        ],
        env={**os.environ, "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert proxy.stdout is not None
    proxy.stdout.readline()
    try:
        yield port
    finally:
        proxy.send_signal(signal.SIGINT)
        proxy.wait()
        proxy.stdout.close()


def one_by_one(port: int, requests: int) -> list[float]:
    """Return the seconds of requests that one client sends."""
    load = Load(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for _ in range(requests):
        load.send(connection, "POST")
    connection.close()
    return load.seconds


def rate(port: int) -> float | None:
    """Return the requests a second that wrk measures, None without wrk."""
    if shutil.which("wrk") is None:
        return None
    words = ["wrk", "--threads", "1", "--connections", "8", "--duration", "5s"]
    done = subprocess.run(
        [*words, f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True
    )
    found = re.search(r"Requests/sec: *([0-9.]+)", done.stdout)
    return float(found[1]) if found else None


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    p99 = statistics.quantiles(seconds, n=100)[98]
    return {"p50_ms": round(statistics.median(seconds) * 1e3, 2), "p99_ms": round(p99 * 1e3, 2)}


def measure(testbed: Testbed, *, interruptions: int, requests: int, clients: int) -> dict[str, Any]:
    """Return all figures."""
    start(testbed, upload(testbed))
    direct_port = await_ready(testbed, 1)
    with connected(testbed) as port:
        one_by_one(port, 50)
        cost = {
            "direct": milliseconds(one_by_one(direct_port, 2000)),
            "through the proxy": milliseconds(one_by_one(port, 2000)),
        }
        rates = {"direct": rate(direct_port), "through the proxy": rate(port)}
        load = Load(port)
        with load.running(clients):
            for number in range(1, interruptions + 1):
                testbed.interrupt(RUN, attempt=number, notice_seconds=90)
                await_ready(testbed, number + 1)
                wait_for(
                    lambda number=number: testbed.run(RUN).fence > number,  # type: ignore[misc]
                    f"attempt {number + 1} to have the fence",
                )
                print(f"interruption {number} of {interruptions}", file=sys.stderr, flush=True)
            wait_for(lambda: len(load.seconds) >= requests, f"{requests} requests")
    return {
        "requests": len(load.seconds),
        "lost": len(load.lost),
        "what_was_lost": load.lost[:5],
        "interruptions": interruptions,
        **milliseconds(load.seconds),
        "longest_ms": round(max(load.seconds) * 1e3, 1),
        "one_client": cost,
        "requests_per_second_of_wrk": rates,
    }


def main() -> int:
    """Print the figures; exit 1 if a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interruptions", type=int, default=3)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        endpoint = daemon.start(Path(home), die_with_parent=True)
        try:
            deploy(endpoint, project=PROJECT)
            figures = measure(
                Testbed(endpoint),
                interruptions=arguments.interruptions,
                requests=arguments.requests,
                clients=arguments.clients,
            )
        finally:
            daemon.stop(Path(home))
    print(json.dumps(figures, indent=None if arguments.json else 2))
    return 1 if figures["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
