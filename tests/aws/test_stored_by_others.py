"""What other versions of runctl stored is read without an error."""

import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from runctl.aws.attributes import deserialize
from runctl.aws.items import read_attempts, read_run, run_item
from runctl.aws.ledger import DynamoLedger
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.limit_options import RetryOptions
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.request import RunRequest
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES
from runctl.model.run import AttemptStage, Run, derive_status
from runctl.model.saving_options import CheckpointOptions
from tests.aws.conftest import make_table

AT = datetime(2026, 11, 20, 9, 30, tzinfo=timezone.utc)
# As version 1 of the manifests wrote them, in DynamoDB's own form.
RUN_ITEM = {
    "pk": {"S": "RUN#lm"},
    "sk": {"S": "RUN"},
    "listed": {"S": "run"},
    "unsettled": {"S": "run"},
    "run_id": {"S": "lm"},
    "request": {
        "S": '{"args": ["--epochs", "3"], "auto_resume": true, "checkpoint": {"dir": "", '
        '"grace_seconds": 90, "interval": 0, "keep_last": 3}, "code": "s3://b/code/a.tar.gz", '
        '"credentials": "none", "env": {"MODE": "fast"}, "instance_types": ["m5.large"], '
        '"market": "spot", "max_attempts": 100, "script": "train.py", '
        '"deadline": "2026-12-01T00:00:00+00:00"}'
    },
    "started_at": {"S": "2026-11-20T09:30:00.000000+00:00"},
    "execution": {"S": "lm"},
    "execution_arn": {"S": "arn:aws:states:us-east-1:123456789012:execution:runctl:lm"},
    "executions": {"N": "1"},
    "first_attempt": {"N": "1"},
    "ancestors": {"L": []},
    "fence": {"N": "1"},
    "step": {"N": "150"},
    "newest": {"S": "runs/lm/checkpoints/manifests/000000000150-0001.json"},
    "committed_at": {"S": "2026-11-20T09:30:00.000000+00:00"},
}
ATTEMPT_ITEM = {
    "pk": {"S": "RUN#lm"},
    "sk": {"S": "ATTEMPT#0001"},
    "run_id": {"S": "lm"},
    "number": {"N": "1"},
    "stage": {"S": "training"},
    "launch_try": {"N": "1"},
    "fleet_request": {"S": "{}"},
    "timeline": {"M": {"started": {"S": "2026-11-20T09:30:00.000000+00:00"}}},
    "opened_at": {"S": "2026-11-20T09:30:00.000000+00:00"},
    "instance_ids": {"L": [{"S": "i-00000000000000001"}]},
    "pool": {"S": "m5.large/us-east-1a/spot"},
    "launched_at": {"S": "2026-11-20T09:30:00.000000+00:00"},
    "token": {"S": "token"},
    "training_at": {"S": "2026-11-20T09:30:00.000000+00:00"},
    "phase": {"S": "train"},
    "heartbeat_at": {"S": "2026-11-20T09:30:00.000000+00:00"},
    "resume_step": {"N": "12"},
    "progress_step": {"N": "150"},
    "metrics": {"S": '{"loss": 0.5}'},
    "saving": {"S": '{"is_fixed": false, "size_bytes": 7, "every_seconds": 60.0}'},
    "warning": {"S": ""},
}
MANIFEST = (
    b'{"attempt":1,"entries":[{"kind":"file","mode":420,"mtime_ns":5,"parts":[{"sha256":"'
    + b"ab" * 32
    + b'","size_bytes":3}],"path":"step-150.pt","size_bytes":3,"target":""}],"metadata":{'
    b'"previous":["runs/lm/checkpoints/manifests/000000000140-0001.json"]},"run_id":"lm","step":150,'
    b'"taken_at":"2026-11-20T09:30:00+00:00","version":1}'
)


def test_a_run_of_the_previous_version_is_read_completely():
    run = read_run(deserialize(RUN_ITEM))
    assert (run.run_id, run.fence, run.step, run.save, run.best_step) == ("lm", 1, 150, 0, 150)
    assert (run.proven, run.suspects, run.progressed_attempt) == (None, frozenset(), None)
    assert run.newest == RUN_ITEM["newest"]["S"]
    assert (run.started_at, run.ended) == (AT, None)
    assert run.request == RunRequest.of(
        script="train.py",
        code="s3://b/code/a.tar.gz",
        args=("--epochs", "3"),
        env={"MODE": "fast"},
        instance_types=("m5.large",),
        deadline=datetime(2026, 12, 1, tzinfo=timezone.utc),
    )


def test_an_attempt_of_the_previous_version_is_read_completely():
    (attempt,) = read_attempts([deserialize(ATTEMPT_ITEM)])
    assert (attempt.number, attempt.stage) == (1, AttemptStage.RUNNING)
    assert (attempt.resume_step, attempt.resume_save, attempt.progress_step) == (12, None, 150)
    assert attempt.metrics == {"loss": 0.5}
    assert attempt.timeline == {"started": AT}
    assert attempt.saving is not None
    assert attempt.saving.size_bytes == 7


def test_a_manifest_of_the_previous_version_is_read_completely():
    manifest = Manifest.from_json(MANIFEST)
    assert (manifest.step, manifest.save, manifest.attempt, manifest.version) == (150, 0, 1, 1)
    (entry,) = manifest.entries
    part = Part(sha256="ab" * 32, size_bytes=3)
    assert entry == Entry(
        path="step-150.pt", kind="file", mode=420, mtime_ns=5, size_bytes=3, parts=(part,)
    )


def test_fields_of_a_manifest_that_only_a_newer_version_knows_are_ignored():
    document = json.loads(MANIFEST)
    document["later"] = {"a": 1}
    document["entries"][0]["later"] = 1
    document["entries"][0]["parts"][0]["later"] = 1
    document["version"] = 2
    read = Manifest.from_json(json.dumps(document).encode())
    assert replace(read, version=1) == Manifest.from_json(MANIFEST)


def stored(**changes):
    return {**deserialize(RUN_ITEM), **changes}


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"ended": "evaporated"}, "ended", RunStatus.UNKNOWN),
        ({"started_at": "soon"}, "started_at", datetime(1970, 1, 1, tzinfo=timezone.utc)),
        ({"step": "many"}, "step", None),
        ({"committed_at": 7}, "committed_at", None),
        ({"later": [1]}, "later", None),
    ],
)
def test_a_run_that_a_newer_version_wrote_is_read_as_far_as_it_is_known(changes, name, value):
    assert getattr(read_run(stored(**changes)), name, None) == value


@pytest.mark.parametrize(
    ("request_text", "changes"),
    [
        ("{", {}),
        ("[]", {}),
        (
            '{"racks": {"count": 4}, "kind": "simulate", "extra": 1}',
            {"kind": "unknown", "extra": {"racks": {"count": 4}, "extra": 1}},
        ),
        ('{"market": "reserved"}', {"market": "unknown"}),
        ('{"market": ["spot"]}', {}),
        ('{"credentials": "all"}', {"credentials": "none"}),
        ('{"instance_types": null, "env": [], "max_attempts": "9"}', {}),
        (
            '{"checkpoint": {"keep_last": 5, "dir": 3, "later": 1}, "auto_resume": false}',
            {
                "checkpoint": CheckpointOptions(keep_last=5),
                "auto_resume": False,
                "extra": {"checkpoint": {"later": 1}},
            },
        ),
        (
            '{"retry": {"exit_codes": [1], "delay": {"seconds": 5}}, "deadline": "2030-01-01"}',
            {
                "retry": RetryOptions(exit_codes=(1,)),
                "extra": {"retry": {"delay": {"seconds": 5}}},
            },
        ),
        ('{"deadline": "in a week"}', {}),
    ],
)
def test_a_request_that_a_newer_version_stored_is_read_as_far_as_it_is_known(request_text, changes):
    request = read_run(stored(request=request_text)).request
    assert request == RunRequest.of(**changes)
    assert request.resources.instance_types == DEFAULT_INSTANCE_TYPES


def test_fields_of_a_newer_version_are_written_back_even_inside_objects():
    newer = {
        "script": "train.py",
        "racks": {"count": 4},
        "checkpoint": {"keep_last": 5, "compress": True},
        "retry": {"delay": 5},
    }
    written = RunRequest.from_stored(newer).as_document()
    assert written["racks"] == {"count": 4}
    assert written["retry"] == {"delay": 5}
    assert (written["checkpoint"]["compress"], written["checkpoint"]["keep_last"]) == (True, 5)


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({}, AttemptStage.RUNNING),
        ({"ended": '{"kind": "evicted"}'}, AttemptStage.ENDED),
        ({"token": None, "has_token": True}, AttemptStage.RUNNING),
        ({"token": None}, AttemptStage.LAUNCHED),
        ({"token": None, "instance_ids": None}, AttemptStage.LAUNCHING),
    ],
)
def test_the_stage_of_a_newer_version_follows_from_what_else_is_known(changes, stage):
    item = {**deserialize(ATTEMPT_ITEM), "stage": "suspended", **changes}
    (attempt,) = read_attempts([{name: value for name, value in item.items() if value is not None}])
    assert attempt.stage is stage


def test_an_attempt_that_a_newer_version_wrote_is_read_as_far_as_it_is_known():
    item = {
        **deserialize(ATTEMPT_ITEM),
        "ended": '{"kind": "evicted", "reason": "the rack burned", "step": "x"}',
        "metrics": '{"loss": "low", "accuracy": 1}',
        "timeline": {"started": "later", "exited": AT.isoformat()},
        "saving": '{"every_seconds": "often", "later": 1, "size_bytes": 3}',
        "later": {"a": 1},
    }
    (attempt,) = read_attempts([item])
    assert attempt.ended is not None
    assert (attempt.ended.kind, attempt.ended.reason) == (OutcomeKind.UNKNOWN, "the rack burned")
    assert attempt.metrics == {"accuracy": 1.0}
    assert attempt.timeline == {"exited": AT}
    assert attempt.saving is not None
    assert (attempt.saving.every, attempt.saving.size_bytes) == (None, 3)


def test_one_run_of_a_newer_version_does_not_hide_the_others(aws):
    client, table = make_table()
    newer = {
        **RUN_ITEM,
        "pk": {"S": "RUN#new"},
        "run_id": {"S": "new"},
        "request": {"S": '{"kind": "serve", "market": "capacity-block"}'},
        "ended": {"S": "evaporated"},
    }
    attempt = {**ATTEMPT_ITEM, "pk": {"S": "RUN#new"}, "stage": {"S": "suspended"}}
    attempt["run_id"] = {"S": "new"}
    for item in (RUN_ITEM, ATTEMPT_ITEM, newer, attempt):
        client.put_item(TableName=table, Item=item)
    ledger = DynamoLedger(client, table)
    statuses = {
        run.run_id: derive_status(run, ledger.attempts(run.run_id)) for run in ledger.list_runs()
    }
    assert statuses == {"lm": RunStatus.RUNNING, "new": RunStatus.UNKNOWN}


def test_an_upgraded_deployment_commits_to_a_run_of_the_previous_version(aws):
    client, table = make_table()
    client.put_item(TableName=table, Item=RUN_ITEM)
    client.put_item(TableName=table, Item=ATTEMPT_ITEM)
    ledger = DynamoLedger(client, table)
    ledger.commit_checkpoint("lm", 1, step=30, save=1, manifest="new", progressed=False, now=AT)
    run = ledger.find_run("lm")
    assert run is not None
    assert (run.step, run.save, run.best_step, run.newest) == (30, 1, 150, "new")
    ledger.commit_checkpoint("lm", 1, step=None, save=2, manifest="newer", progressed=True, now=AT)
    run = ledger.find_run("lm")
    assert run is not None
    assert (run.step, run.save, run.best_step, run.progressed_attempt) == (None, 2, 150, 1)


def test_fields_that_only_this_version_knows_are_written_and_read_back():
    run = Run(
        run_id="lm",
        request=RunRequest.of(script="s3://b/a.py"),
        started_at=AT,
        execution="lm",
        execution_arn="arn",
        step=5,
        save=9,
        best_step=7,
        progressed_attempt=2,
        newest="n",
        proven="p",
        suspects=frozenset({"a", "b"}),
    )
    assert read_run(run_item(run)) == run
