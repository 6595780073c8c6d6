"""The hook for the Hugging Face Trainer, with the real one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.agent.machine import wait_until
from tests.training.place import Place, read_until, undisturbed
from tests.training.programs import TRANSFORMERS

pytestmark = pytest.mark.slow


def test_a_kill_in_the_middle_of_a_save_resumes_from_the_requested_one_bit_for_bit(
    place: Place, frameworks: Path
) -> None:
    process = place.start(TRANSFORMERS, "0.05", python=frameworks, SLOW_SAVE="16")
    read_until(process, "step 9")
    place.request.write_text("now")
    wait_until(lambda: len(place.saved.read_text().splitlines()) == 2)
    asked = json.loads(place.saved.read_text().splitlines()[-1])["step"]
    assert 9 <= asked < 16
    read_until(process, "saving")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert (place.checkpoints / "checkpoint-16/model.safetensors").exists()
    lines = place.run(TRANSFORMERS, python=frameworks).splitlines()
    assert f"from {asked}" in lines
    assert (place.root / "outputs/weights").read_text() == undisturbed(TRANSFORMERS)
    metrics = [json.loads(line) for line in place.metrics.read_text().splitlines()]
    assert {"loss", "learning_rate", "epoch"} <= metrics[0].keys()
