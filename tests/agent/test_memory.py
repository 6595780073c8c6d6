"""The agent's memory does not grow with the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.machine import Cloud, wait_until

pytestmark = pytest.mark.slow

LARGE_BYTES = 512 << 20
# Clients take 62 MiB; each of 32 threads may hold a buffer of 1 MiB and has a stack.
LIMIT_KIB = 110 * 1024


def peak_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise LookupError(pid)


@pytest.mark.parametrize(
    ("files", "size"),
    [(1, LARGE_BYTES), (1024, 128 << 10)],
    ids=["half a gibibyte", "1024 files of 128 KiB"],
)
def test_uploading_and_restoring_stays_below_110_mib(
    cloud: Cloud, launch, files: int, size: int
) -> None:
    cloud.create_run(
        f"""
        import os, pathlib, time
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"]) / "step-1"
        if not folder.exists():
            temporary = folder.with_name("unfinished")
            temporary.mkdir()
            for number in range({files}):
                with (temporary / f"{{number}}.bin").open("wb") as stream:
                    for _ in range({size >> 16}):
                        stream.write(os.urandom(65536))
            temporary.rename(folder)
        print(sum(path.stat().st_size for path in folder.iterdir()), flush=True)
        time.sleep(600)
        """
    )
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: cloud.run().step == 1)
    assert peak_kib(first.process.pid) < LIMIT_KIB
    first.kill_agent()
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    path = second.state / "log/trainer.out"
    wait_until(lambda: path.exists() and str(files * size) in path.read_text())
    assert peak_kib(second.process.pid) < LIMIT_KIB
