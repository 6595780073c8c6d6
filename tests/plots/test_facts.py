"""What the plots of a sweep show: importance, the best so far, axes, and too few trials."""

import random
from datetime import datetime, timezone

import pytest

from runctl.model.hyperparameters import Value, read_domain, read_value
from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, TrialState
from runctl.plots.axes import domain_axis, value_axis
from runctl.plots.facts import NothingToPlotError, plots_of
from runctl.plots.importance import explained_by, importance_of

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)


def a_trial(number, value, state=TrialState.COMPLETED, **chosen):
    values = {name: read_value(text) for name, text in chosen.items()}
    return Trial(
        group_id="s", number=number, chosen=values, started_at=AT, execution="e", state=state,
        value=value,
    )  # fmt: skip


def options_of(direction="minimize", **hyperparameters):
    return SweepOptions(hyperparameters=hyperparameters, metric="loss", direction=direction)


def grid(value_of, *, repeated=2):
    trials = []
    for _ in range(repeated):
        for lr in ("0.1", "0.2", "0.3"):
            for name in ("adam", "sgd"):
                number = len(trials) + 1
                value = value_of(float(lr), name)
                trials.append(a_trial(number, value, lr=lr, optimizer=name))
    return trials


GRID = options_of(lr="0.1,0.2,0.3", optimizer="adam,sgd")


def test_what_decides_alone_explains_everything_and_the_other_nothing():
    plots = plots_of("s", GRID, grid(lambda lr, _: lr))
    assert [(found.name, found.explained) for found in plots.importances] == [
        ("lr", pytest.approx(1)),
        ("optimizer", 0),
    ]


def test_the_measure_is_that_of_kruskal_and_wallis():
    # H = 12 / (n (n + 1)) * sum(R² / size) - 3 (n + 1), with the sums of ranks 6, 17 and 22.
    groups = ["a", "a", "a", "b", "b", "b", "c", "c", "c"]
    values = [1, 2, 3, 4, 5, 8, 6, 7, 9]
    h = 12 / 90 * (6**2 + 17**2 + 22**2) / 3 - 30
    assert explained_by(groups, values) == pytest.approx((h - 3 + 1) / (9 - 3))


def test_a_diverged_trial_does_not_decide():
    calm = [1.0, 2.0, 3.0, 4.0]
    assert explained_by("aabb", calm) == explained_by("aabb", [*calm[:3], 1e30])


def test_a_valley_of_a_continuous_hyperparameter_is_found():
    chosen = [step / 40 for step in range(40)]
    found = importance_of("lr", chosen, [(lr - 0.5) ** 2 for lr in chosen])
    assert found.explained > 0.7


@pytest.mark.parametrize("levels", [2, 3, 20, 1000])
def test_chance_is_not_taken_for_importance(levels):
    drawn = random.Random(levels)
    found = [
        importance_of(
            "seed",
            [drawn.randrange(levels) for _ in range(30)],
            [drawn.random() for _ in range(30)],
        ).explained
        for _ in range(200)
    ]
    assert sum(found) / len(found) < 0.06


@pytest.mark.parametrize(
    ("chosen", "values", "problem"),
    [
        ([1, 1, 1, 1], [1, 2, 3, 4], "all trials have the same value"),
        ([1, 2, 3], [1, 2, 3], "needs 4 completed trials"),
        ([1, 2, 1, 2], [5, 5, 5, 5], "all trials are equally good"),
        (["a", "b", "c", "d"], [1, 2, 3, 4], "no two trials have the same value"),
    ],
)
def test_what_cannot_be_estimated_has_a_reason(chosen, values, problem):
    found = importance_of("x", chosen, values)
    assert (found.explained, found.problem) == (None, problem)


def test_true_is_not_the_number_1():
    assert importance_of("x", [True, True, 1, 1], [1, 2, 3, 4]).explained > 0.5


@pytest.mark.parametrize(
    ("direction", "best", "history"),
    [("minimize", 3, [4, 4, 1, 1]), ("maximize", 4, [4, 4, 4, 5])],
)
def test_the_best_so_far_follows_the_direction(direction, best, history):
    trials = [a_trial(n, value, lr="0.1") for n, value in enumerate((4, 4, 1, 5), start=1)]
    plots = plots_of("s", options_of(direction, lr="0.1,0.2"), trials)
    assert [point.value for point in plots.best_so_far] == history
    assert plots.best.number == best
    assert plots.lines[-1].is_best
    assert [line.is_best for line in plots.lines].count(True) == 1


@pytest.mark.parametrize(("direction", "best"), [("minimize", 2), ("maximize", 3)])
def test_the_distance_from_the_best_follows_the_direction(direction, best):
    trials = [a_trial(n, value, lr="0.1") for n, value in enumerate((2.0, 1.0, 3.0), start=1)]
    lines = plots_of("s", options_of(direction, lr="0.1,0.2"), trials).lines
    distances = {line.number: line.distance for line in lines}
    assert distances == {best: 0, 1: pytest.approx(0.5), 5 - best: 1}


def test_pruned_and_failed_trials_are_apart():
    trials = [
        a_trial(1, 3.0, lr="0.1"),
        a_trial(2, 0.5, TrialState.PRUNED, lr="0.2"),
        a_trial(3, None, TrialState.FAILED, lr="0.2"),
        a_trial(4, 2.0, lr="0.2"),
        a_trial(5, None, TrialState.RUNNING, lr="0.1"),
        a_trial(6, 0.1, TrialState.STOPPED, lr="0.1"),
        a_trial(7, None, TrialState.PRUNED, lr="0.1"),
        a_trial(8, float("nan"), lr="0.1"),
        a_trial(9, float("inf"), lr="0.1"),
        # No axis has both this and a large negative one.
        a_trial(10, 1.7e308, lr="0.1"),
    ]
    plots = plots_of("s", options_of(lr="0.1,0.2"), trials)
    assert [point.number for point in plots.completed] == [1, 4]
    assert [point.number for point in plots.pruned] == [2]
    assert plots.failed == (3,)
    assert plots.best.number == 4
    assert [point.value for point in plots.best_so_far] == [3, 2]
    assert [(line.number, line.is_pruned) for line in plots.lines] == [
        (2, True),
        (1, False),
        (4, False),
    ]
    assert plots.counted == "2 completed, 1 pruned, 1 failed"


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([], "no trial has been completed with a value of loss, and plots need 2"),
        ([a_trial(1, 1.0, lr="0.1")], "only one trial has been completed with a value of loss"),
        (
            [a_trial(1, None, TrialState.FAILED), a_trial(2, 1.0, TrialState.PRUNED)],
            r"plots need 2 \(trials so far: 1 failed, 1 pruned\)",
        ),
    ],
)
def test_too_few_trials_are_named(trials, message):
    with pytest.raises(NothingToPlotError, match=message):
        plots_of("s", options_of(lr="0.1,0.2"), trials)


def test_a_trial_without_a_known_value_has_no_line():
    trials = [a_trial(1, 1.0, lr="0.1"), a_trial(2, 2.0, lr="7"), a_trial(3, 3.0, size="1")]
    plots = plots_of("s", options_of(lr="0.1,0.2"), trials)
    assert [line.number for line in plots.lines] == [1]


@pytest.mark.parametrize(
    ("domain", "plain", "position"),
    [
        ("0.0..0.5", 0.25, 0.5),
        ("1e-5..1e-1:log", 1e-3, 0.5),
        ("2..8", 8, 1),
        ("2..8", "eight", None),
        ("2..8", True, None),
        ("32,128,64", 64, 0.5),  # numbers in their order
        ("sgd,adam,lion", "adam", 0.5),  # words as given
        ("true,false", False, 1),
        ("only", "only", 0.5),
        ("sgd,adam", "lion", None),
    ],
)
def test_a_value_has_a_position_on_its_axis(domain, plain, position):
    found = domain_axis("x", read_domain(domain)).position(plain)
    assert found == (position if position is None else pytest.approx(position))


@pytest.mark.parametrize(
    ("domain", "labels"),
    [
        ("1e-5..1e-1:log", ["1e-05", "0.1", "0.0001", "0.001", "0.01"]),
        ("3..7", ["3", "7", "4", "5", "6"]),
        ("0..100", ["0", "100", "25", "50", "75"]),
        ("1..1024:log", ["1", "1024", "10", "100", "1000"]),
        ("0.0..0.5", ["0", "0.5", "0.125", "0.25", "0.375"]),
        ("sgd,adam", ["sgd", "adam"]),
    ],
)
def test_ticks_are_round(domain, labels):
    assert [label for _, label in domain_axis("x", read_domain(domain)).ticks] == labels


def test_many_values_do_not_have_a_tick_each():
    axis = domain_axis("x", read_domain(",".join(str(number) for number in range(1000))))
    assert 5 < len(axis.ticks) <= 12
    assert len(domain_axis("x", read_domain("1e-99..1e99:log")).ticks) < 16


def test_the_axis_of_a_metric_has_room_and_a_scale():
    assert value_axis("loss", [2.0, 2.0]).position(2.0) == pytest.approx(0.5)
    assert value_axis("loss", [0.0]).position(0.0) == pytest.approx(0.5)
    assert value_axis("loss", [0.001, 10]).is_log
    assert not value_axis("loss", [-0.001, 10]).is_log
    assert not value_axis("loss", [1, 10]).is_log


def test_values_are_compared_by_what_they_mean():
    plots = plots_of(
        "s",
        options_of(lr="0.10,1e-2"),
        [
            Trial(
                group_id="s", number=number, chosen={"lr": Value(text, float(text))},
                started_at=AT, execution="e", state=TrialState.COMPLETED, value=float(number),
            )
            for number, text in enumerate(("0.1", "0.01"), start=1)
        ],
    )  # fmt: skip
    assert [line.positions[0] for line in plots.lines] == [0, 1]
