"""The pictures of a sweep: real PNG files, of any size of sweep, without a display."""

import io
import os
import random
import subprocess
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path

import matplotlib.image
import pytest

from runctl.model.errors import SetupError
from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, TrialState
from runctl.plots.drawing import render_plots
from runctl.plots.facts import plots_of

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
PROJECT = Path(__file__).parents[2]
FILES = ["history.png", "importance.png", "parallel-coordinates.png"]


def facts_of(count=30, *, name="digits", metric="loss", direction="minimize", **hyperparameters):
    given = hyperparameters or {"lr": "1e-5..1e-1:log", "optimizer": "adam,sgd", "size": "32,64"}
    options = SweepOptions(hyperparameters=given, metric=metric, direction=direction)
    drawn = random.Random(1)
    trials = []
    for number in range(1, count + 1):
        state = TrialState.COMPLETED
        if number > 2 and number % 7 == 0:
            state = TrialState.PRUNED if number % 2 else TrialState.FAILED
        chosen = {key: domain.draw(drawn.random()) for key, domain in options.space.domains.items()}
        trials.append(
            Trial(
                group_id=name, number=number, chosen=chosen, started_at=AT, execution="e",
                state=state, value=None if state is TrialState.FAILED else drawn.random(),
            )
        )  # fmt: skip
    return plots_of(name, options, trials)


def pixels(content):
    """Decode a picture: rows of pixels with red, green, blue and opacity."""
    return matplotlib.image.imread(io.BytesIO(content), format="png")


def colors_in(content):
    return {tuple(pixel) for row in (pixels(content)[..., :3] * 255).astype(int) for pixel in row}


def test_the_pictures_are_drawn_in_a_sensible_size():
    pictures = render_plots(facts_of())
    assert list(pictures) == FILES
    for content in pictures.values():
        height, width, _ = pixels(content).shape
        assert 900 < width < 1800
        assert 300 < height < 900


def test_states_have_their_own_colors():
    colors = colors_in(render_plots(facts_of())["history.png"])
    blue, orange, red = (0x48, 0x78, 0xA8), (0xE8, 0x74, 0x3B), (0xC0, 0x39, 0x2B)
    assert {blue, orange, red} <= colors
    assert red not in colors_in(render_plots(facts_of(6))["history.png"])


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_smallest_sweep_is_drawn(direction):
    pictures = render_plots(facts_of(2, direction=direction, lr="0.1,0.2"))
    assert list(pictures) == FILES


def test_a_large_sweep_stays_within_bounds():
    many = {f"parameter_{number}_" + "x" * 50: "0.0..1.0" for number in range(50)}
    for content in render_plots(facts_of(300, **many)).values():
        height, width, _ = pixels(content).shape
        assert width <= 60 * 120
        assert height <= 30 * 120


def test_text_is_drawn_as_it_is():
    hostile = r"$\frac{,$x_,100$,学习,a" + "b" * 190 + ",\x1b[31mred"
    facts = facts_of(name="a" * 58, metric=r"$\nonsense{", word=hostile, other="true,false")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(render_plots(facts)) == FILES


def test_no_display_is_needed(tmp_path):
    code = (
        "from tests.plots.test_drawing import facts_of; "
        "from runctl.plots.drawing import render_plots; "
        "print(sorted(render_plots(facts_of(4))))"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MPLBACKEND": "TkAgg"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(FILES)


def test_without_the_library_that_is_said(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match="plots need matplotlib, which is missing"):
        render_plots(facts_of(2))
