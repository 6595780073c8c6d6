"""Probes of servers that answer, refuse, are slow, or speak no HTTP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from runctl.agent.serving.probe import Probe, make_probes
from runctl.model.serving_options import LivenessProbe, ServingOptions


class Scripted:
    """A server that sends each connection the same bytes, one piece after another."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.pause = 0.0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                try:
                    for piece in self.pieces:
                        connection.sendall(piece)
                        time.sleep(self.pause)
                except OSError:
                    continue

    def close(self) -> None:
        # It wakes the thread that waits for connections, too.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


def check(server: Scripted, **options) -> str:
    port = options.pop("port", server.port)
    return make_probes(ServingOptions(**options), port).liveness.check()


def answer(status: int) -> bytes:
    return f"HTTP/1.1 {status} Word\r\nContent-Length: 2\r\n\r\nok".encode()


@pytest.mark.parametrize("status", [200, 302, 404, 401])
def test_without_a_path_any_answer_below_500_succeeds(server, status):
    server.pieces = [answer(status)]
    assert check(server) == ""


@pytest.mark.parametrize(("status", "is_success"), [(200, True), (304, True), (404, False)])
def test_with_a_path_only_success_does(server, status, is_success):
    server.pieces = [answer(status)]
    problem = check(server, probe_path="/health")
    assert problem == ("" if is_success else f"GET /health was answered with status {status}")


def test_a_status_that_the_request_names_is_the_only_one(server):
    server.pieces = [answer(204)]
    assert check(server, liveness=LivenessProbe(status=204)) == ""
    assert "status 204" in check(server, liveness=LivenessProbe(status=200))


def test_a_failing_server_fails(server):
    server.pieces = [answer(500)]
    assert check(server) == "GET / was answered with status 500"


def test_a_server_that_speaks_no_http_fails(server):
    server.pieces = [b"220 smtp ready\r\n"]
    assert check(server).startswith("no HTTP answer to GET /")


def test_a_server_that_says_nothing_fails(server):
    assert check(server).startswith("no HTTP answer to GET /")


def test_a_port_where_nothing_listens_fails():
    server = Scripted()
    server.close()
    assert check(server) == f"nothing listens on port {server.port}"


def test_a_server_that_sends_a_byte_now_and_then_fails_in_time(server):
    server.pieces = [b"H"] * 100
    server.pause = 0.1
    probe = Probe(port=server.port, path="/", statuses=range(100, 500), timeout=0.5)
    assert probe.check() == "no answer to GET / within 0 s"
