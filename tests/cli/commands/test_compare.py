"""`runctl compare`: results side by side, their plots, and what cannot be compared."""

import json
from datetime import timedelta

import pytest

from runctl.model.outcome import OutcomeKind, RunStatus
from tests.cli.deployed import BUCKET, now

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def evaluated(deployed):
    """Two evaluations of a training, which also reported metrics itself."""
    deployed.begin("lm", at=now() - timedelta(hours=2))
    deployed.train("lm", 1, since=3600)
    deployed.progress("lm", 1, 40)
    put(deployed, "runs/lm/metrics/0001/000/1.jsonl", '{"step": 1, "loss": 0.9}\n{"step": 2, ')
    put(deployed, "runs/lm/metrics/0001/000/2.jsonl", '{"step": 2, "loss": 0.5}\nnonsense\n')
    for name, accuracy in (("first", 0.5), ("second", 0.75)):
        evaluate = {"checkpoint": "run:lm", "every_checkpoint": name == "second"}
        deployed.begin(name, kind="evaluate", evaluate=evaluate)
        deployed.train(name, 1, since=60)
        metrics = {"accuracy": accuracy, "loss": 1 - accuracy, "per_class": {"cat": accuracy}}
        deployed.ledger.record_metrics(name, 1, metrics)
        deployed.end_attempt(name, 1, OutcomeKind.COMPLETED)
        deployed.end(name, RunStatus.COMPLETED)
    lines = [{"save": n, "step": 10 * n, "metrics": {"accuracy": n / 4}} for n in (1, 2, 3)]
    put(deployed, "runs/second/outputs/evaluations.jsonl", "\n".join(map(json.dumps, lines)))
    return deployed


def put(deployed, key, text):
    deployed.clients.get("s3").put_object(Bucket=BUCKET, Key=key, Body=text.encode())


def test_results_are_side_by_side_and_the_best_are_marked(evaluated, runctl):
    done = runctl("compare", "first", "second")
    assert done.code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    rows = {words[0]: words for words in reversed(lines)}
    assert lines[0] == ["first", "second"]
    assert rows["accuracy"] == ["accuracy", "0.5", "0.75", "*"]
    assert rows["loss"] == ["loss", "0.5", "0.25", "*"]
    assert rows["per_class.cat"][0] == "per_class.cat"
    assert rows["status"] == ["status", "completed", "completed"]
    assert "every checkpoint of lm" in done.stdout
    assert "* best of its row" in done.stdout


def test_the_histories_are_plotted(evaluated, runctl):
    done = runctl("compare", "first", "second")
    assert "┤" in done.stdout
    assert "step" in done.stdout
    done = runctl("compare", "lm", "first", "--metric", "loss")
    assert "lm" in done.stdout.split("loss")[-1]


def test_the_document_has_everything(evaluated, runctl):
    document = runctl("compare", "--json", "lm", "second").document
    lm, second = document["runs"]
    assert lm["histories"] == {"loss": [[1, 0.9], [2, 0.5]]}
    assert second["histories"] == {"accuracy": [[10, 0.25], [20, 0.5], [30, 0.75]]}
    assert second["metrics"]["per_class.cat"] == 0.75
    assert document["metrics"]["loss"] == {"direction": "minimize", "best": ["lm"]}


def test_a_direction_can_be_given(evaluated, runctl):
    document = runctl("compare", "--json", "first", "second", "--minimize", "accuracy").document
    assert document["metrics"]["accuracy"] == {"direction": "minimize", "best": ["first"]}


def test_a_picture_is_written(evaluated, runctl, tmp_path):
    path = tmp_path / "plots.png"
    done = runctl("compare", "first", "second", "--png", str(path))
    assert done.code == 0, done.stderr
    assert path.read_bytes().startswith(PNG)
    assert "shows accuracy, loss" in done.stderr


def test_a_picture_that_cannot_be_written_is_an_error(evaluated, runctl, tmp_path):
    done = runctl("compare", "first", "second", "--png", str(tmp_path / "none" / "plots.png"))
    assert done.code == 2
    assert "--png: " in done.stderr


def test_without_the_library_there_is_a_table_and_the_remedy(evaluated, runctl, monkeypatch):
    for name in ("plotext", "matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    done = runctl("compare", "first", "second")
    assert done.code == 0
    assert "to plot the histories: pip install 'runctl[plots]'" in done.stderr
    done = runctl("compare", "first", "second", "--png", "plots.png")
    assert done.code == 2
    assert "--png: needs matplotlib, which is missing; pip install 'runctl[plots]'" in done.stderr


def test_runs_without_metrics_are_named(evaluated, runctl):
    evaluated.begin("empty")
    done = runctl("compare", "empty", "first")
    assert done.code == 0
    assert "empty has no metrics: its program wrote none to metrics.json" in done.stderr
    evaluated.begin("bare")
    done = runctl("compare", "empty", "bare", "--png", "plots.png")
    assert done.code == 2
    assert "the runs have no metric that is a number" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["first"], 2, "name at least two runs to compare"),
        (["first", "first"], 2, "name at least two runs to compare"),
        (["first", "sec-ond"], 4, "run 'sec-ond' does not exist; did you mean second?"),
        (["first", "second", "--metric", "acc"], 2, "no run has a metric 'acc'; known: accuracy"),
        (["first", "second", "--maximize", "x", "--minimize", "x"], 2, "x is also given to"),
    ],
)
def test_what_cannot_be_compared_is_refused(evaluated, runctl, words, code, message):
    done = runctl("compare", *words)
    assert (done.code, message in done.stderr) == (code, True), done.stderr
