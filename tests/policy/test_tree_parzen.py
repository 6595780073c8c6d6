"""The sampler tpe, with the libraries as they are packaged for the function."""

from __future__ import annotations

import importlib
import platform
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.model.errors import SetupError
from runctl.model.sweep_options import TPE, SweepOptions
from runctl.model.trial import Trial, TrialState, trial_run_id
from runctl.policy.halving import goes_on, rung_at
from runctl.policy.tree_parzen import suggest
from stacks.assets import build_sampler
from tests.control.fakes import START

SPACE = {"lr": "1e-5..1e-1:log", "layers": "1..8", "act": "relu,tanh", "drop": "0.0..0.5:6"}
OPTIONS = SweepOptions(
    hyperparameters=SPACE, sampler=TPE, metric="loss", max_trials=60, instances=4, seed=3
)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the libraries of the function's asset, for this machine, on the path."""
    folder = tmp_path_factory.mktemp("sampler")
    asset = build_sampler(platform=f"{platform.machine()}-3.{sys.version_info[1]}")
    with zipfile.ZipFile(asset.path) as archive:
        names = [
            name for name in archive.namelist() if not name.startswith(("runctl/", "lambdas/"))
        ]
        archive.extractall(folder, names)
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))


def ended(number: int, chosen: object, **changes: object) -> Trial:
    known = {"state": TrialState.COMPLETED, "value": loss(chosen), **changes}
    return Trial(
        group_id="search",
        number=number,
        chosen=chosen,
        started_at=START,
        execution=trial_run_id("search", number),
        **known,
    )


def loss(chosen: object) -> float:
    return abs(float(chosen["lr"].text) - 0.01) + (chosen["layers"].plain - 4) ** 2 / 10


def swept(count: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(1, count + 1):
        chosen = suggest(OPTIONS, trials, group_id="search", number=number)
        trials.append(ended(number, chosen))
    return trials


@pytest.mark.usefixtures("libraries")
def test_it_learns_from_trials_and_repeats_the_same_suggestion() -> None:
    trials = swept(30)
    for trial in trials:
        assert 1e-5 <= trial.chosen["lr"].plain <= 1e-1
        assert float(trial.chosen["lr"].text) == trial.chosen["lr"].plain
        assert trial.chosen["layers"].plain in range(1, 9)
        assert trial.chosen["act"].text in ("relu", "tanh")
        assert trial.chosen["drop"].text in ("0", "0.1", "0.2", "0.3", "0.4", "0.5")
    first, last = trials[:10], trials[20:]
    assert sum(trial.value for trial in last) < sum(trial.value for trial in first)
    again = suggest(OPTIONS, trials, group_id="search", number=31)
    assert again == suggest(OPTIONS, trials, group_id="search", number=31)
    assert again != suggest(OPTIONS, trials, group_id="search", number=32)


@pytest.mark.usefixtures("libraries")
def test_it_takes_running_pruned_failed_and_foreign_trials() -> None:
    trials = swept(12)
    chosen = trials[0].chosen
    trials += [
        ended(13, chosen, state=TrialState.RUNNING, value=None),
        ended(14, chosen, state=TrialState.PRUNED, value=0.4, pruned_at=9),
        ended(15, chosen, state=TrialState.PRUNED, value=None, pruned_at=9),
        ended(16, chosen, state=TrialState.FAILED, value=None),
        ended(17, chosen, state=TrialState.STALE, value=None),
        ended(18, {**chosen, "act": chosen["lr"]}),
        Trial(group_id="search", number=19, chosen={}, started_at=START, execution="x"),
    ]
    assert suggest(OPTIONS, trials, group_id="search", number=20).keys() == SPACE.keys()


@pytest.mark.usefixtures("libraries")
def test_points_of_a_space_that_ends_are_not_repeated() -> None:
    options = SweepOptions(hyperparameters={"a": "1..3", "b": "x,y"}, sampler=TPE, metric="loss")
    trials: list[Trial] = []
    for number in range(1, 7):
        chosen = suggest(options, trials, group_id="search", number=number)
        trials.append(
            Trial(
                group_id="search",
                number=number,
                chosen=chosen,
                started_at=START,
                execution="x",
                state=TrialState.COMPLETED,
                value=float(chosen["a"].plain),
            )
        )
    assert len({tuple(value.text for value in trial.chosen.values()) for trial in trials}) == 6


def test_without_optuna_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SetupError, match="the sampler tpe needs Optuna and numpy"):
        suggest(OPTIONS, [], group_id="search", number=1)


def test_other_samplers_do_not_load_it() -> None:
    path = Path(sys.modules[suggest.__module__].__file__ or "")
    assert "\nimport optuna" not in path.read_text()


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_halving_decides_as_the_pruner_of_optuna(direction: str, factor: int) -> None:
    optuna = importlib.import_module("optuna")
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)
    study = optuna.create_study(direction=direction, pruner=pruner)
    source = random.Random(7)
    reached: dict[int, list[float]] = {}
    for _ in range(60):
        trial, quality = study.ask(), source.random()
        for step in range(1, 28):
            value = quality + source.random() / step
            trial.report(value, step)
            rung = rung_at(step, first=1, factor=factor)
            if rung != step:
                continue
            others = reached.setdefault(rung, [])
            expected = goes_on(value, others, direction=direction, reduction_factor=factor)
            others.append(value)
            assert trial.should_prune() is not expected
            if not expected:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)
