"""The hook for Lightning, with the real one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.agent.machine import wait_until
from tests.training.place import Place, read_until, undisturbed
from tests.training.programs import LIGHTNING

pytestmark = pytest.mark.slow


def test_lightning_saves_on_request_stops_within_a_validation_and_resumes_bit_for_bit(
    place: Place, frameworks: Path
) -> None:
    process = place.start(LIGHTNING, "0.05", python=frameworks)
    read_until(process, "step 2")
    place.request.write_text("now")
    wait_until(place.saved.exists)
    asked = json.loads(place.saved.read_text().splitlines()[0])["step"]
    read_until(process, "validating 15 0")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "validating 15 2" not in out
    assert place.names() == [f"step-{asked:09d}.ckpt", "step-000000015.ckpt"]
    lines = place.run(LIGHTNING, python=frameworks).splitlines()
    assert "from 000000015.ckpt" in lines
    assert (place.root / "outputs/weights").read_text() == undisturbed(LIGHTNING)
    steps = [int(line.split()[1]) for line in lines if line.startswith("step ")]
    assert steps == [*range(16, 31)]
    metrics = [json.loads(line) for line in place.metrics.read_text().splitlines()]
    assert {"loss", "val_loss", "epoch"} <= metrics[-1].keys()
    assert [line["step"] for line in metrics] == sorted(line["step"] for line in metrics)
