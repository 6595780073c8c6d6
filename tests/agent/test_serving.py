"""Services: real servers that become ready, fail, are started again and hand over."""

from __future__ import annotations

import http.client
import signal
import socket
import struct
from datetime import datetime, timezone

import pytest

from runctl.model.serving_options import LivenessProbe, ReadinessProbe, ServingOptions
from tests.agent.machine import Cloud, wait_until

pytestmark = pytest.mark.slow

# It answers /name, and after a request for /break what its file says.
SERVER = """
    import os, pathlib, signal, sys, threading, time
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    print("arguments", sys.argv[1:], flush=True)
    state = {"health": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path
            if path == "/exit":
                os._exit(3)
            if path.startswith("/health/"):
                state["health"] = int(path.rpartition("/")[2])
            if path == "/slow":
                time.sleep(2)
            status = state["health"] if path == "/health" else 200
            body = f"attempt {os.environ['RUNCTL_ATTEMPT']}".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    time.sleep(float(os.environ.get("LOADING", "0")))
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    server.daemon_threads = False
    stop = lambda *_: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(0.05)
    server.server_close()
    print("answered everything", flush=True)
"""

# The server is a child of a process that only waits, as with LitServe.
WAITING = """
    import os, signal, time
    if os.fork():
        if os.environ["LEADER"] == "ignores":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(0.05)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str = "/name") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def create_service(cloud: Cloud, program: str = SERVER, **options):
    port = options.pop("port", 0) or free_port()
    cloud.create_run(
        program,
        kind="serve",
        env=options.pop("env", {}),
        args=("--name", "a"),
        serve=ServingOptions(port=port, **options),
    )
    return port


def is_ready(cloud: Cloud, attempt: int = 1) -> bool:
    service = cloud.attempt(attempt).service
    return service is not None and service.is_ready


def printed(machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text() if path.exists() else ""


def test_a_server_becomes_ready_and_answers_what_it_accepted_when_it_is_stopped(
    cloud: Cloud, launch
) -> None:
    port = create_service(cloud, drain_seconds=20)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: is_ready(cloud), why=machine.agent_log())
    service = cloud.attempt().service
    assert service is not None
    assert service.port == port
    assert service.since <= datetime.now(timezone.utc)
    assert "ready" in cloud.attempt().timeline
    assert get(port) == "attempt 1"
    assert f"arguments ['--name', 'a', '--port', '{port}']" in printed(machine)

    with socket.create_connection(("127.0.0.1", port)) as accepted:
        accepted.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        wait_until(lambda: cloud.attempt().phase == "serve")
        machine.ask("stop")
        assert accepted.makefile().read().endswith("attempt 1")
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"]) == ("stopped", 0)
    assert "answered everything" in printed(machine)
    assert not is_ready(cloud)


@pytest.mark.parametrize(
    ("leader", "drain", "code"),
    [("dies", 60, -signal.SIGTERM), ("ignores", 5, -signal.SIGKILL)],
)
def test_a_process_that_waits_for_nothing_is_ended_after_the_server(
    cloud: Cloud, launch, leader: str, drain: int, code: int
) -> None:
    create_service(cloud, WAITING + SERVER, drain_seconds=drain, env={"LEADER": leader})
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: is_ready(cloud), why=machine.agent_log())
    machine.ask("stop")
    outcome = cloud.outcome(120)
    assert (outcome["kind"], outcome["exit_code"]) == ("stopped", code), machine.agent_log()
    assert "answered everything" in printed(machine)


def test_the_next_attempt_is_ready_before_the_old_server_stops_accepting(
    cloud: Cloud, launch
) -> None:
    ports = [create_service(cloud, drain_seconds=5)]
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: is_ready(cloud), why=first.agent_log())
    first.metadata.give_notice(seconds=90)
    wait_until(lambda: "detected" in cloud.attempt().timeline)

    # The machines of this test have one network.
    cloud.open_attempt(2)
    second = launch(attempt=2, variables={"RUNCTL_FREE_PORTS": "1"})
    wait_until(lambda: is_ready(cloud, 2), why=second.agent_log())
    assert cloud.run().fence == 1
    assert not cloud.tokens.reports
    service = cloud.attempt(2).service
    assert service is not None
    ports.append(service.port)
    assert [get(port) for port in ports] == ["attempt 1", "attempt 2"]

    outcome = cloud.outcome()
    assert outcome["kind"] == "interrupted"
    assert "answered everything" in printed(first)
    cloud.give_token(2)
    cloud.tokens.wait_for(lambda: "token-2" in cloud.tokens.beats)
    assert get(ports[1]) == "attempt 2"
    assert printed(second).count("arguments") == 1


def test_an_attempt_that_is_not_the_next_one_does_not_serve_yet(cloud: Cloud, launch) -> None:
    create_service(cloud)
    for number in (1, 2, 3):
        cloud.open_attempt(number)
    cloud.give_token(1)
    # The machines of this test have one network.
    third = launch(attempt=3, variables={"RUNCTL_FREE_PORTS": "1"})
    wait_until(lambda: list(third.state.glob("environments/*/ready")))
    # Time in which it would have started its server; that it does not is what counts.
    second = launch(attempt=2)
    wait_until(lambda: is_ready(cloud, 2), why=second.agent_log())
    assert printed(third) == ""
    cloud.give_token(2)
    wait_until(lambda: printed(third), why=third.agent_log())


def test_a_server_that_exits_is_started_again_on_the_same_instance(cloud: Cloud, launch) -> None:
    port = create_service(cloud)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: is_ready(cloud), why=machine.agent_log())
    with pytest.raises(http.client.RemoteDisconnected):
        get(port, "/exit")
    wait_until(lambda: (cloud.attempt().service or 0) and cloud.attempt().service.restarts == 1)
    wait_until(lambda: is_ready(cloud))
    assert get(port) == "attempt 1"
    assert printed(machine).count("arguments") == 2


def test_a_server_that_fails_its_liveness_probe_is_started_again(cloud: Cloud, launch) -> None:
    port = create_service(
        cloud,
        probe_path="/health",
        readiness=ReadinessProbe(period_seconds=1, failures=1),
        liveness=LivenessProbe(period_seconds=1, failures=3),
    )
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: is_ready(cloud), why=machine.agent_log())
    get(port, "/health/503")
    wait_until(lambda: not is_ready(cloud))
    wait_until(lambda: is_ready(cloud))
    assert printed(machine).count("arguments") == 2
    assert "(GET /health was answered with status 503)" in machine.agent_log()


def test_a_server_that_fails_at_its_start_ends_the_attempt_with_its_last_lines(
    cloud: Cloud, launch
) -> None:
    create_service(cloud, "raise SystemExit('no model in the checkpoint')")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    outcome = cloud.outcome(120)
    assert outcome["kind"] == "failed"
    assert outcome["exit_code"] == 1
    assert "the server ended 3 times" in outcome["reason"]
    assert "no model in the checkpoint" in outcome["reason"]
    assert machine.wait() == 0
    assert "ready" not in cloud.attempt().timeline


def test_a_server_that_never_becomes_ready_ends_the_attempt_in_time(cloud: Cloud, launch) -> None:
    other = free_port()
    program = SERVER.replace('os.environ["PORT"]', f'"{other}"')
    create_service(cloud, program, startup_seconds=3)
    cloud.open_attempt()
    cloud.give_token()
    launch()
    outcome = cloud.outcome(120)
    assert outcome["kind"] == "failed"
    assert outcome["exit_code"]
    assert "was not ready within 3 s (nothing listens on port" in outcome["reason"]
    assert f"but it listens on {other}; give it the port of RUNCTL_PORT" in outcome["reason"]


def test_a_port_in_use_ends_the_attempt_at_once_and_names_the_process(cloud: Cloud, launch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = create_service(cloud, port=taken.getsockname()[1])
        cloud.open_attempt()
        cloud.give_token()
        machine = launch()
        outcome = cloud.outcome(120)
    assert outcome["kind"] == "failed"
    assert f"serve.port: port {port} of the instance is in use by process" in outcome["reason"]
    assert "exit_code" not in outcome
    assert printed(machine) == ""


def test_a_server_that_nobody_uses_ends_as_stopped_and_probes_do_not_count(
    cloud: Cloud, launch
) -> None:
    port = create_service(cloud, idle_stop_seconds=3, readiness=ReadinessProbe(period_seconds=1))
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: is_ready(cloud), why=machine.agent_log())
    with socket.create_connection(("127.0.0.1", port)) as held:
        # A reset leaves no trace in the kernel's tables, where a closed connection stays a minute.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with pytest.raises(TimeoutError):
            cloud.outcome(8)
    outcome = cloud.outcome()
    assert outcome["kind"] == "stopped"
    assert outcome["reason"] == "there was no connection for 3 s"
    assert "answered everything" in printed(machine)
