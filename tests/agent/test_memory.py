"""The agent's memory does not grow with the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.machine import Cloud, wait_until

pytestmark = pytest.mark.slow

LARGE_BYTES = 512 << 20
LIMIT_KIB = 100 * 1024


def peak_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise LookupError(pid)


def test_uploading_and_restoring_half_a_gibibyte_stays_below_100_mib(cloud: Cloud, launch) -> None:
    cloud.create_run(
        f"""
        import os, pathlib, time
        path = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"]) / "step-1.bin"
        if not path.exists():
            with path.open("wb") as stream:
                for _ in range({LARGE_BYTES >> 20}):
                    stream.write(os.urandom(1 << 20))
        print(path.stat().st_size, flush=True)
        time.sleep(600)
        """
    )
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: cloud.run().step == 1, 120)
    assert peak_kib(first.process.pid) < LIMIT_KIB
    first.kill_agent()
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    path = second.state / "log/trainer.out"
    wait_until(lambda: path.exists() and str(LARGE_BYTES) in path.read_text(), 120)
    assert peak_kib(second.process.pid) < LIMIT_KIB
