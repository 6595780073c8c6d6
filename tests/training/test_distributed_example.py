"""The example of distributed training: it stops at one step, and resumes with other ranks."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.training.place import Place, read_line

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
PROGRAM = (PROJECT / "examples/training/train_ddp.py").read_text()
DIGITS = "sklearn/datasets/data/digits.csv.gz"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with as much of scikit-learn as has the digits; the frameworks have none of it."""
    found = list((PROJECT / "build/wheels").glob("scikit_learn-*.whl"))
    assert found, "run `make setup` first"
    with zipfile.ZipFile(found[0]) as wheel:
        wheel.extract(DIGITS, tmp_path / "packages")
    (tmp_path / "packages/sklearn/__init__.py").touch()
    return tmp_path / "packages"


class Trainer:
    """Starts the example on a number of ranks, as torchrun does."""

    def __init__(self, place: Place, python: Path, packages: Path) -> None:
        self._place, self._python = place, python
        self._path = f"{place.helper}:{packages}"

    def start(self, *arguments: str, ranks: int) -> list[subprocess.Popen[str]]:
        port = _free_port()
        return [
            self._place.start(
                PROGRAM,
                "--epochs",
                "4",
                *arguments,
                python=self._python,
                PYTHONPATH=self._path,
                RUNCTL_OUTPUT_DIR=str(self._place.root / "outputs"),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                WORLD_SIZE=str(ranks),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                GLOO_SOCKET_IFNAME="lo",
            )
            for rank in range(ranks)
        ]

    def run(self, *, ranks: int) -> str:
        """Return the output of the first rank of a run to its end."""
        ends = [process.communicate(timeout=240) for process in self.start(ranks=ranks)]
        assert "done" in ends[0][0], ends
        return ends[0][0]

    def losses(self) -> dict[int, float]:
        lines = map(json.loads, self._place.metrics.read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines}

    def forget(self) -> None:
        shutil.rmtree(self._place.checkpoints)
        self._place.metrics.unlink()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_stopped_run_ends_like_another_one_with_a_different_number_of_ranks(
    place: Place, frameworks: Path, packages: Path
) -> None:
    trainer = Trainer(place, frameworks, packages)
    trainer.run(ranks=1)
    whole = trainer.losses()
    trainer.forget()
    ranks = trainer.start("--step-seconds", "0.05", ranks=2)
    while not read_line(ranks[0]).startswith("step 25/"):
        assert ranks[0].poll() is None, ranks[0].communicate()
    ranks[1].send_signal(signal.SIGTERM)  # which only one of them hears
    ends = [process.communicate(timeout=240) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], ends
    (saved,) = place.names()
    step = int(saved.removeprefix("step-").removesuffix(".pt"))
    assert 25 <= step < 100
    assert f"from step {step}" in trainer.run(ranks=1)
    assert sorted(trainer.losses()) == [25, 50, 75, 100] == sorted(whole)
    assert trainer.losses() == pytest.approx(whole, abs=1e-3)
