"""A service keeps answering while its instances are taken, with a notice and without."""

from __future__ import annotations

import io
import json
import math
import socket
import struct
import zipfile

import pytest

from runctl.model.outcome import OutcomeKind, RunStatus
from tests.e2e.serving import CountingClient, connected
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e
EXAMPLE = PROJECT / "examples/scripts/inference_server.py"


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
