"""Ids for experiment trackers: what they accept, and what a program may name."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.model.trackers import read_mlflow_run, tracker_variables, wandb_run_id

RUN = Run(
    run_id="lr-search-0007",
    request=RunRequest(),
    started_at=datetime(2026, 11, 30, tzinfo=timezone.utc),
    execution="lr-search-0007",
    execution_arn="arn:1",
)


def test_the_id_is_that_of_the_run_in_all_its_executions():
    resumed = replace(RUN, execution="lr-search-0007-r2", execution_arn="arn:2", executions=2)
    assert wandb_run_id(resumed) == wandb_run_id(RUN)
    assert wandb_run_id(RUN).startswith("lr-search-0007-")


def test_a_run_of_the_same_name_has_another_id():
    other = replace(RUN, started_at=RUN.started_at + timedelta(days=1))
    assert wandb_run_id(other) != wandb_run_id(RUN)


def test_the_longest_name_makes_an_id_that_is_accepted():
    names = [wandb_run_id(replace(RUN, run_id="x" * 63 + letter)) for letter in "ab"]
    assert [len(name) for name in names] == [64, 64]
    assert names[0] != names[1]


def test_mlflow_gets_an_id_only_when_its_run_is_known():
    assert "MLFLOW_RUN_ID" not in tracker_variables(RUN)
    assert tracker_variables(replace(RUN, mlflow_run="abc"))["MLFLOW_RUN_ID"] == "abc"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"step": 0, "mlflow_run_id": "f2288c839499"}', "f2288c839499"),
        ('{"mlflow_run_id": "a b"}', ""),
        ('{"mlflow_run_id": 7}', ""),
        ('{"mlflow_run_id": ""}', ""),
        ('["mlflow_run_id"]', ""),
        ("mlflow_run_id", ""),
        ('{"step": 1}', ""),
    ],
)  # fmt: skip
def test_a_line_of_metrics_may_name_the_run_of_mlflow(line, named):
    assert read_mlflow_run(line) == named
