"""A service keeps answering while its instances are taken, with a notice and without."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runctl.model.outcome import OutcomeKind, RunStatus
from tests.e2e.gangs import site_packages
from tests.e2e.printed import printed_command, start_printed
from tests.e2e.serving import CountingClient, connected
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e
EXAMPLE = PROJECT / "examples/scripts/inference_server.py"
TYPES = "m5.large,m6i.large,m7i.large,c5.large,c6i.large,r5.large"
# It needs no environment, and says which replica and attempt answers.
SERVER = """\
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        me = f"{os.environ['RUNCTL_RUN_ID']} {os.environ['RUNCTL_ATTEMPT']}"
        body = json.dumps({"attempt": me}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

# LitServe's example as its documentation prints it, but for port 8000, which two instances of the
# local cloud cannot both have, and "auto", for which it would import torch.
LITSERVE = """\
import os

import litserve as ls

class SimpleLitAPI(ls.LitAPI):
    def setup(self, device):
        self.model1 = lambda x: x**2
        self.model2 = lambda x: x**3

    def decode_request(self, request):
        return request["input"]

    def predict(self, x):
        squared = self.model1(x)
        cubed = self.model2(x)
        output = squared + cubed
        return {"output": output}

    def encode_response(self, output):
        return {"output": output["output"]}

if __name__ == "__main__":
    server = ls.LitServer(SimpleLitAPI(), accelerator="cpu")
    server.run(port=os.environ["PORT"])
"""


def array(*shape: int, seventh: float = 0) -> bytes:
    """Return zeros in NumPy's file format, the seventh of them another number."""
    values = [0.0] * math.prod(shape)
    if seventh:
        values[7] = seventh
    head = str({"descr": "<f8", "fortran_order": False, "shape": shape})
    head = head.ljust(117) + "\n"
    size = struct.pack("<H", len(head))
    return b"\x93NUMPY\x01\x00" + size + head.encode() + struct.pack(f"<{len(values)}d", *values)


@pytest.fixture(scope="module")
def checkpoint(testbed: Testbed) -> str:
    """A checkpoint in the form of train_mnist.py: its classifier always finds the digit 7."""
    weights = {
        "w1": array(64, 8), "b1": array(8), "w2": array(8, 10), "b2": array(10, seventh=1.0),
    }  # fmt: skip
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in weights.items():
            archive.writestr(f"weight_{name}.npy", data)
    bucket = testbed.deployment.bucket
    key = "inputs/model/best.npz"
    testbed.clients.get("s3").put_object(Bucket=bucket, Key=key, Body=content.getvalue())
    return f"s3://{bucket}/{key}"


@pytest.fixture(scope="module")
def example(testbed: Testbed) -> str:
    """The project of the inference server, whose dependencies `make setup` has downloaded."""
    wheels = PROJECT / "build" / "wheels"
    _, _, program = EXAMPLE.read_text().partition("# ///\n")
    return testbed.upload_project(
        {
            "inference_server.py": program,
            "requirements.txt": f"--no-index\n--find-links {wheels}\nfastapi\nnumpy\nuvicorn\n",
        }
    )


def is_ready(testbed: Testbed, run_id: str, attempt: int) -> bool:
    found = testbed.ledger.find_attempt(run_id, attempt)
    return found is not None and found.service is not None and found.service.is_ready


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_request_is_lost_with_a_notice_and_the_gap_is_bounded_without(
    testbed: Testbed, example: str, checkpoint: str
):
    run_id = testbed.start(
        {
            "kind": "serve",
            "code": example,
            "script": "inference_server.py",
            "serve": {
                "checkpoint": checkpoint,
                "port": 8080,
                "probe_path": "/health",
                "drain_seconds": 5,
            },
        }
    )
    wait_for(lambda: is_ready(testbed, run_id, 1), f"{run_id} to be ready")
    port = free_port()
    with connected(testbed, run_id, port):
        image = json.dumps({"images": [[0.5] * 64]}).encode()
        predictions = CountingClient(port, "/predict", image)
        health = CountingClient(port, "/health")
        with predictions.running(), health.running():
            wait_for(lambda: health.answers["1"] > 10, "answers of attempt 1")
            testbed.simulate_spot_interruption(run_id, attempt=1, notice_seconds=60)
            wait_for(lambda: health.answers["2"] > 10, "answers of attempt 2")
            wait_for(lambda: testbed.run(run_id).fence == 2, "attempt 2 to have the fence")
        assert predictions.lost == health.lost == [], testbed.story(run_id)
        assert set(predictions.answers) == {'{"digits":[7]}'}
        ended = testbed.attempts(run_id)[0]
        assert ended.ended is not None
        assert ended.ended.kind is OutcomeKind.INTERRUPTED

        # A GET is repeated, so that even without a notice it is only late.
        with health.running():
            testbed.simulate_spot_interruption(run_id, attempt=2, notice=False)
            wait_for(lambda: health.answers["3"] > 10, "answers of attempt 3")
        assert health.lost == [], testbed.story(run_id)

    testbed.clients.get("stepfunctions").stop_execution(
        executionArn=testbed.workflow.execution_arn(run_id)
    )
    wait_for(lambda: testbed.run(run_id).ended is RunStatus.STOPPED, f"{run_id} to end")
    testbed.wait_for_no_instance(run_id)


def serve(testbed: Testbed, project: Path, program: str, *options: str) -> dict[str, Any]:
    """Start a service by the command line; return what the command prints."""
    (project / "server.py").write_text(program)
    done = subprocess.run(
        [
            sys.executable, "-m", "runctl.cli.main", "--local", "--json", "aws", "serve",
            "--script", "server.py", "--probe-path", "/health", "--detach", *options,
        ],
        cwd=project,
        env={**os.environ, "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_a_litserve_server_runs_unchanged_and_loses_no_request(
    testbed: Testbed, new_name: Callable[[], str], tmp_path: Path
):
    run_id = new_name()
    packages = f"PYTHONPATH={site_packages()}"
    serve(testbed, tmp_path, LITSERVE, "--name", run_id, "--port", "8000", "--env", packages)
    wait_for(lambda: is_ready(testbed, run_id, 1), f"{run_id} to be ready")
    port = free_port()
    with connected(testbed, run_id, port):
        client = CountingClient(port, "/predict", b'{"input": 4.0}')
        with client.running():
            wait_for(lambda: client.answers.total() > 10, "answers of attempt 1")
            testbed.simulate_spot_interruption(run_id, attempt=1, notice_seconds=100)
            wait_for(lambda: testbed.run(run_id).fence == 2, "attempt 2 to have the fence")
            before = client.answers.total()
            wait_for(lambda: client.answers.total() > before + 10, "answers of attempt 2")
    assert client.lost == [], testbed.story(run_id)
    assert set(client.answers) == {'{"output":80.0}'}
    ended = testbed.attempts(run_id)[0].ended
    assert ended is not None
    # Its main process waits for good; it was asked to end, and not killed after --drain-seconds.
    assert (ended.kind, ended.exit_code) == (OutcomeKind.INTERRUPTED, -signal.SIGTERM)
    testbed.clients.get("stepfunctions").stop_execution(
        executionArn=testbed.workflow.execution_arn(run_id)
    )
    testbed.wait_for_no_instance(run_id)


def test_a_replica_is_taken_while_the_other_one_answers(
    testbed: Testbed, new_name: Callable[[], str], tmp_path: Path
):
    name = new_name()
    options = ("--port", "8080", "--replicas", "2", "--instance-types", TYPES)
    first, second = serve(testbed, tmp_path, SERVER, "--name", name, *options)["runs"]
    for run_id in (first, second):
        wait_for(lambda run_id=run_id: is_ready(testbed, run_id, 1), f"{run_id} to be ready")
    types = [str(testbed.attempts(run_id)[0].pool).split("/")[0] for run_id in (first, second)]
    assert types[0] != types[1]  # so that a shortage of one takes one replica
    port = free_port()
    with connected(testbed, name, port):
        client = CountingClient(port, "/health")
        with client.running():
            wait_for(lambda: client.answers.total() > 10, "answers")
            # Connections stay with a replica for as long as it answers.
            taken = first if client.answers[f"{first} 1"] else second
            other = f"{second if taken == first else first} 1"
            before = client.answers[other]
            testbed.simulate_spot_interruption(taken, attempt=1, notice=False)
            wait_for(lambda: client.answers[other] > before + 10, f"answers of {other}")
            wait_for(lambda: is_ready(testbed, taken, 2), f"{taken} to be ready again")
        assert client.lost == [], testbed.story(taken)
        assert set(client.answers) <= {f"{taken} 1", f"{taken} 2", other}
    for run_id in (first, second):
        arn = testbed.workflow.execution_arn(run_id)
        testbed.clients.get("stepfunctions").stop_execution(executionArn=arn)
        testbed.wait_for_no_instance(run_id)


@pytest.mark.parametrize("instance", [True, False])
def test_the_printed_command_serves_a_model(
    testbed: Testbed, checkpoint: str, tmp_path: Path, instance: bool
):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "inference_server.py").write_text(SERVER)
    known = {run.run_id for run in testbed.ledger.list_runs()}
    names = {"BUCKET": testbed.deployment.bucket, "checkpoints/best.pt": "model/best.npz"}
    command = printed_command("runctl aws serve $INSTANCE_ID")
    process = start_printed(testbed, command, tmp_path, names=names, instance=instance)

    def find() -> str | None:
        found = [run.run_id for run in testbed.ledger.list_runs() if run.run_id not in known]
        return next((run_id for run_id in found if run_id.startswith("inference-server")), None)

    run_id = wait_for(find, "the service to begin")
    assert isinstance(run_id, str)
    wait_for(lambda: is_ready(testbed, run_id, 1), f"{run_id} to be ready")
    port = free_port()
    with connected(testbed, run_id, port):
        client = CountingClient(port, "/")
        with client.running(clients=1):
            wait_for(lambda: client.answers[f"{run_id} 1"], "an answer")
        assert client.lost == []
    testbed.clients.get("stepfunctions").stop_execution(
        executionArn=testbed.workflow.execution_arn(run_id)
    )
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert f"{run_id} stopped" in printed
