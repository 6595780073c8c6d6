"""`runctl sweep plots`: files in a folder, and what cannot be drawn."""

from datetime import timedelta
from pathlib import Path

import pytest

from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.aws.trial_ledger import DynamoTrialLedger
from runctl.model.group import Group
from runctl.model.hyperparameters import read_value
from runctl.model.trial import Trial, TrialEnd, TrialState, trial_run_id
from tests.cli.deployed import TABLE, now

PNG = b"\x89PNG\r\n\x1a\n"
FILES = ["history.png", "importance.png", "parallel-coordinates.png"]


@pytest.fixture
def begin(deployed):
    """Begin a sweep with a trial for each value; None is a failed trial."""

    def begin(name, *values, metric="loss"):
        client = deployed.clients.get("dynamodb")
        options = {"hyperparameters": {"lr": "0.1,0.2", "size": "32,64"}, "metric": metric}
        DynamoGroupLedger(client, TABLE).create_group(
            Group(
                group_id=name, kind="sweep", execution=name, execution_arn=f"arn:{name}",
                started_at=now() - timedelta(hours=1),
                request={"command": ["train"], "sweep": options},
            )
        )  # fmt: skip
        trials = DynamoTrialLedger(client, TABLE)
        for number, value in enumerate(values, start=1):
            chosen = {"lr": read_value(f"0.{number % 2 + 1}"), "size": read_value("32")}
            trial = Trial(
                group_id=name, number=number, chosen=chosen, started_at=now(),
                execution=trial_run_id(name, number),
            )  # fmt: skip
            trials.create_trial(trial)
            state = TrialState.FAILED if value is None else TrialState.COMPLETED
            trials.end_trial(trial, end=TrialEnd(state=state, value=value), now=now())

    return begin


def test_pictures_are_written_into_a_folder_of_the_sweep(begin, runctl):
    begin("digits", 0.5, 0.25, None, 0.75, 0.3)
    done = runctl("sweep", "plots", "digits")
    assert done.code == 0, done.stderr
    assert done.stdout.split() == [f"digits-plots/{name}" for name in FILES]
    for name in FILES:
        assert Path("digits-plots", name).read_bytes().startswith(PNG)


def test_the_document_has_paths_and_facts(begin, runctl, deployed):
    begin("digits", 0.5, 0.25, None, 0.75, 0.3)
    document = runctl("sweep", "plots", "digits", "--out", "new/folder", "--json").document
    assert document["files"] == [f"new/folder/{name}" for name in FILES]
    assert document["best"] == {"trial": 2, "value": 0.25}
    assert document["counts"] == {"completed": 4, "pruned": 0, "failed": 1}
    assert [found["name"] for found in document["importance"]] == ["lr", "size"]
    assert document["importance"][1]["problem"] == "all trials have the same value"
    assert not [key for key in deployed.objects() if key.startswith("groups/")]


def test_a_second_call_replaces_the_files(begin, runctl):
    begin("digits", 0.5, 0.25)
    Path("here").mkdir()
    Path("here/history.png").write_text("old")
    assert runctl("sweep", "plots", "digits", "--out", "here").code == 0
    assert Path("here/history.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "digits: no trial has been completed with a value of loss"),
        ([None, 0.5], "digits: only one trial has been completed with a value of loss"),
    ],
)
def test_too_few_trials_are_named(begin, runctl, values, message):
    begin("digits", *values)
    done = runctl("sweep", "plots", "digits")
    assert (done.code, message in done.stderr) == (4, True), done.stderr
    assert "`runctl sweep status digits`" in done.stderr
    assert not Path("digits-plots").exists()


def test_a_sweep_without_a_metric_is_refused(begin, runctl):
    begin("digits", 0.5, 0.25, metric="")
    done = runctl("sweep", "plots", "digits")
    assert (done.code, "digits has no metric to draw" in done.stderr) == (2, True), done.stderr


def test_a_folder_that_cannot_be_written_is_named(begin, runctl):
    begin("digits", 0.5, 0.25)
    Path("file").write_text("")
    Path("busy/history.png").mkdir(parents=True)
    for out, path in (("file", "file"), ("file/in", "file/in"), ("busy", "busy/history.png")):
        done = runctl("sweep", "plots", "digits", "--out", out)
        assert done.code == 2
        assert f"--out: {path} cannot be written: " in done.stderr


def test_without_the_library_nothing_is_written(begin, runctl, monkeypatch):
    begin("digits", 0.5, 0.25)
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    done = runctl("sweep", "plots", "digits")
    assert done.code == 2
    assert "plots need matplotlib, which is missing; pip install 'runctl[plots]'" in done.stderr
    assert not Path("digits-plots").exists()


def test_an_unknown_sweep_has_similar_names(begin, runctl):
    begin("digits", 0.5)
    done = runctl("sweep", "plots", "digit")
    assert (done.code, "did you mean digits?" in done.stderr) == (4, True), done.stderr
