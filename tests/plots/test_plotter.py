"""The function that draws, from its asset: with nothing but what that has."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stacks.assets import build_plotter
from stacks.settings import PROJECT

# Lambda's limit is 250 MiB.
MAX_UNPACKED = 120_000_000
PROGRAM = """
import os, sys
top, written = sys.argv[1:]
sys.path.insert(0, top)
sys.modules["boto3"] = sys.modules["botocore"] = None
from datetime import datetime, timezone
from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, TrialState
from runctl.plots.drawing import render_plots
from runctl.plots.facts import plots_of

options = SweepOptions(
    hyperparameters={"lr": "1e-5..1e-1:log", "kind": "adam,sgd"}, metric="loss", sampler="random",
    max_trials=20,
)
trials = [
    Trial(
        group_id="digits", number=number, execution="e", started_at=datetime.now(timezone.utc),
        chosen={
            name: domain.draw((number * 7 % 20) / 20)
            for name, domain in options.space.domains.items()
        },
        state=(TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)[number % 3],
        value=10.0 ** -number,
    )
    for number in range(1, 21)
]
for name, picture in render_plots(plots_of("digits", options, trials)).items():
    with open(os.path.join(written, name), "wb") as file:
        file.write(picture)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the content of the function's asset for this machine."""
    folder = tmp_path_factory.mktemp("plotter")
    asset = build_plotter(platform=f"{platform.machine()}-3.{sys.version_info[1]}")
    with zipfile.ZipFile(asset.path) as archive:
        archive.extractall(folder)
    return folder


def test_it_draws_without_other_libraries_or_a_home(unpacked: Path, tmp_path: Path) -> None:
    python = Path(sys.base_prefix, "bin/python3")
    done = subprocess.run(
        [python, "-I", "-S", "-W", "error", "-c", PROGRAM, unpacked, tmp_path],
        env={"HOME": "/nonexistent", "MPLCONFIGDIR": str(tmp_path / "fonts")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    pictures = sorted(tmp_path.glob("*.png"))
    assert [path.name for path in pictures] == [
        "history.png", "importance.png", "parallel-coordinates.png",
    ]  # fmt: skip
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_it_fits_into_a_function_and_lacks_what_is_not_drawn_with(unpacked: Path) -> None:
    files = [path for path in unpacked.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_UNPACKED
    names = {path.relative_to(unpacked).as_posix() for path in files}
    assert "lambdas/plot_sweep.py" in names
    assert "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf" in names
    assert not [name for name in names if "/tests/" in name or name.endswith((".in", "plots.txt"))]


def test_a_change_of_the_sources_packs_no_library_again(tmp_path: Path) -> None:
    for folder in ("runctl", "lambdas"):
        shutil.copytree(
            PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "build").mkdir()
    for path in (PROJECT / "build").glob("wheels-*"):
        (tmp_path / "build" / path.name).symlink_to(path)
    for path in (PROJECT / "build").glob("plotter-libraries-*"):
        (tmp_path / "build" / path.name).symlink_to(path)
    here = f"{platform.machine()}-3.{sys.version_info[1]}"
    first = build_plotter(tmp_path, platform=here)
    assert first.sha256 == build_plotter(platform=here).sha256
    (tmp_path / "lambdas/plot_sweep.py").write_text("# changed\n")
    second = build_plotter(tmp_path, platform=here)
    assert second.sha256 != first.sha256
    with zipfile.ZipFile(second.path) as archive:
        assert archive.testzip() is None
        assert archive.read("lambdas/plot_sweep.py") == b"# changed\n"
    libraries = list((tmp_path / "build").glob("plotter-libraries-*"))
    assert libraries
    assert all(path.is_symlink() for path in libraries)
