"""Experiment trackers: all attempts of a run are one run of theirs, with one curve."""

from __future__ import annotations

import json

import pytest

from runctl.agent.prepare.curves import restore_curves
from runctl.agent.reporting.folder_shipper import FolderShipper
from runctl.aws.blobs import Blobs
from runctl.aws.outputs import OutputStore
from runctl.model.errors import TransientError
from tests.agent.machine import Cloud, wait_until

TRACKS = """
    import json, os, pathlib, time
    names = ("WANDB_RUN_ID", "WANDB_RESUME", "MLFLOW_RUN_ID", "RUNCTL_TENSORBOARD_DIR")
    folder = pathlib.Path(os.environ["RUNCTL_TENSORBOARD_DIR"])
    attempt = os.environ["RUNCTL_ATTEMPT"]
    known = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    folder.mkdir(exist_ok=True)
    (folder / f"events.{attempt}").write_text(attempt)
    with open(os.environ["RUNCTL_METRICS_FILE"], "a") as stream:
        stream.write(json.dumps({"step": 1, "loss": 0.5, "mlflow_run_id": "abc123"}) + "\\n")
    print(json.dumps([known, {name: os.environ.get(name) for name in names}]), flush=True)
    while attempt == "1":
        time.sleep(0.1)
"""


def printed(machine) -> list:
    path = machine.state / "log/trainer.out"
    return json.loads(path.read_text()) if path.exists() and path.read_text() else []


@pytest.mark.slow
def test_all_attempts_have_the_same_ids_and_one_folder_of_curves(cloud: Cloud, launch) -> None:
    cloud.create_run(TRACKS)
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: printed(first))
    wait_until(lambda: cloud.run().mlflow_run == "abc123")
    first.metadata.give_notice(seconds=60)
    assert cloud.outcome()["kind"] == "interrupted"
    first.wait()
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    wait_until(lambda: len(cloud.tokens.reports) == 2)
    second.wait()

    (nothing, before), (curves, after) = printed(first), printed(second)

    assert (nothing, curves) == ([], ["events.1"])
    assert (before["MLFLOW_RUN_ID"], after["MLFLOW_RUN_ID"]) == (None, "abc123")
    for name in ("WANDB_RUN_ID", "WANDB_RESUME"):
        assert before[name] == after[name]
    assert before["WANDB_RESUME"] == "allow"
    assert before["WANDB_RUN_ID"].startswith("run-1-")
    stored = cloud.keys("runs/run-1/outputs/tensorboard/")
    assert [key.rpartition("/")[2] for key in stored] == ["events.1", "events.2"]


@pytest.mark.slow
def test_what_the_request_sets_is_kept(cloud: Cloud, launch) -> None:
    env = {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "must", "MLFLOW_RUN_ID": "theirs"}
    cloud.create_run(TRACKS.replace('attempt == "1"', "False"), env=env)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome()["kind"] == "completed"
    machine.wait()
    _, variables = printed(machine)
    assert {name: variables[name] for name in env} == env


def test_a_curve_that_grows_is_uploaded_again_and_one_that_does_not_is_not(cloud, tmp_path) -> None:
    folder = tmp_path / "tensorboard"
    (folder / "train").mkdir(parents=True)
    (folder / "restored").write_text("1")
    outputs = Counted(OutputStore(cloud.clients["s3"], bucket=cloud.name, run_id="run-1"))
    shipper = FolderShipper(outputs, folder, "tensorboard", attempt=1)
    shipper.start()
    (folder / "train" / "events").write_text("1")
    shipper.ship()
    shipper.ship()
    (folder / "train" / "events").write_text("12")
    outputs.fails = True
    shipper.ship()
    outputs.fails = False
    shipper.ship()
    assert outputs.names == ["tensorboard/train/events"] * 2
    assert cloud.read("runs/run-1/outputs/tensorboard/train/events") == b"12"


class Counted:
    """The outputs of a run, which count the uploads and can fail."""

    def __init__(self, outputs: OutputStore) -> None:
        self._outputs = outputs
        self.names: list[str] = []
        self.fails = False

    def put(self, name, file, *, attempt) -> bool:
        if self.fails:
            raise TransientError("no answer")
        self.names.append(name)
        return self._outputs.put(name, file, attempt=attempt)


def test_only_files_that_are_missing_and_stay_inside_the_folder_are_fetched(cloud, tmp_path):
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    (folder / "mine").write_text("here")
    for name in ("mine", "train/events", "../../escaped", "/rooted"):
        key = f"runs/run-1/outputs/tensorboard/{name}"
        cloud.clients["s3"].put_object(Bucket=cloud.name, Key=key, Body=b"there")
    restore_curves(Blobs(cloud.clients["s3"], bucket=cloud.name), "run-1", folder)
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*s")}
    assert found == {"train/events": "there"}
    assert (folder / "mine").read_text() == "here"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tensorboard"]


def test_a_folder_that_cannot_be_fetched_is_no_reason_to_fail(cloud, tmp_path, caplog) -> None:
    restore_curves(Blobs(cloud.clients["s3"], bucket=f"{cloud.name}-none"), "run-1", tmp_path)
    assert "the curves of earlier attempts cannot be fetched" in caplog.text
