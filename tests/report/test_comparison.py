"""The comparison of runs: directions of metrics, and the best of each."""

from datetime import timedelta

import pytest

from runctl.report.comparison import ComparedRun, Direction, compare_runs, direction_of


def a_run(run_id: str, **metrics: object) -> ComparedRun:
    return ComparedRun(
        run_id=run_id,
        status="completed",
        subject="",
        step=1,
        took=timedelta(seconds=90),
        machine_time={"spot": timedelta(seconds=60)},
        interruptions=0,
        metrics=metrics,
    )


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("accuracy", Direction.MAXIMIZE),
        ("val_accuracy", Direction.MAXIMIZE),
        ("top5Acc", Direction.MAXIMIZE),
        ("eval/f1", Direction.MAXIMIZE),
        ("recall.7", Direction.MAXIMIZE),
        ("loss", Direction.MINIMIZE),
        ("trainLoss", Direction.MINIMIZE),
        ("train_loss", Direction.MINIMIZE),
        ("perplexity", Direction.MINIMIZE),
        ("score_seconds", Direction.MINIMIZE),
        ("gloss", None),
        ("digits", None),
        ("", None),
    ],
)
def test_the_name_of_a_metric_may_say_which_values_are_better(name, direction):
    assert direction_of(name) is direction


def test_a_user_knows_better():
    assert direction_of("loss", maximize=["loss"]) is Direction.MAXIMIZE
    assert direction_of("digits", minimize=["digits"]) is Direction.MINIMIZE


def test_the_best_number_is_marked_and_nothing_else():
    runs = [
        a_run("a", accuracy=0.9, loss=0.5, digits=7, note="x", error=1.0),
        a_run("b", accuracy=0.9, loss=0.25, digits=9, note="y", error="NaN"),
        a_run("c", accuracy=0.8),
    ]
    comparison = compare_runs(runs, maximize=["digits"])
    assert comparison.names == ("accuracy", "loss", "digits", "note", "error")
    assert comparison.best == {
        "accuracy": {"a", "b"}, "loss": {"b"}, "digits": {"b"}, "error": set(),
    }  # fmt: skip
    document = comparison.as_document()
    assert document["metrics"]["note"] == {"direction": None, "best": []}
    assert document["runs"][0]["machine_seconds"] == {"spot": 60.0}
