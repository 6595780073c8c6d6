"""What the end-to-end tests of services share: the local proxy, and a client that counts."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.e2e.testbed import Testbed


@contextlib.contextmanager
def connected(testbed: Testbed, run_id: str, port: int) -> Iterator[None]:
    """Run `runctl --local aws connect` meanwhile."""
    program = [sys.executable, "-m", "runctl.cli.main", "--local", "aws", "connect", run_id]
    home = {"RUNCTL_LOCAL_HOME": str(testbed.endpoint.home)}
    proxy = subprocess.Popen(
        [*program, "--local-port", str(port)],
        env={**os.environ, **home, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert proxy.stdout is not None
        assert "reaches" in proxy.stdout.readline()
        yield
    finally:
        proxy.send_signal(signal.SIGINT)
        try:
            assert proxy.wait(60) == 130
        except subprocess.TimeoutExpired:
            proxy.send_signal(signal.SIGABRT)  # it prints where each of its threads is
            proxy.wait()
            raise
        finally:
            proxy.stdout.close()


@dataclass
class CountingClient:
    """Clients that send one request after another on kept connections, and count the answers."""

    port: int
    path: str
    body: bytes = b""
    answers: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    longest: float = 0.0

    def ask(self, connection: http.client.HTTPConnection) -> None:
        """Send one request and count its answer."""
        began = time.monotonic()
        if self.body:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", self.path, self.body, headers)
        else:
            connection.request("GET", self.path)
        answer = connection.getresponse()
        content = answer.read().decode()
        if answer.status != 200:
            raise OSError(f"{answer.status}: {content}")
        self.answers[json.loads(content).get("attempt", content)] += 1
        self.longest = max(self.longest, time.monotonic() - began)

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while not stop.is_set():
            try:
                self.ask(connection)
            except (OSError, http.client.HTTPException) as exc:
                self.lost.append(repr(exc))
                connection.close()
            time.sleep(0.01)
        connection.close()

    @contextlib.contextmanager
    def running(self, clients: int = 2) -> Iterator[CountingClient]:
        """Let clients ask meanwhile."""
        stop = threading.Event()
        threads = [threading.Thread(target=self.run, args=(stop,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()
