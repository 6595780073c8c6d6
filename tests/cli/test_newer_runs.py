"""A run that a newer version stored: commands and reconciliation show it, and all others."""

import json

import pytest

from runctl.aws.ledger import DynamoLedger
from runctl.model.identity import attempt_key, run_key
from runctl.model.outcome import RunStatus
from tests.cli.deployed import Deployed
from tests.control.fakes import World
from tests.control.steps import reconcile

NEWER = {
    "script": "serve.py",
    "kind": "simulate",
    "racks": {"token": "hunter2"},
    "checkpoint": {"keep_last": 2, "key": "hunter2"},
    "market": "reserved",
}


@pytest.fixture
def newer(deployed: Deployed) -> Deployed:
    """Two runs; every attribute that the newer version may have changed is changed in one."""
    for run_id in ("ours", "newer"):
        deployed.begin(run_id)
        deployed.train(run_id, 1)
    changes = {
        "RUN": {"request": json.dumps(NEWER), "step": "many", "racks": "4"},
        "ATTEMPT#0001": {"stage": "suspended", "metrics": "[]", "saving": "{", "racks": "4"},
    }
    for key in (run_key("newer"), attempt_key("newer", 1)):
        values = changes[key["sk"]]
        deployed.clients.get("dynamodb").update_item(
            TableName="runctl-ledger",
            Key={name: {"S": value} for name, value in key.items()},
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
            ExpressionAttributeNames={f"#{name}": name for name in values},
            ExpressionAttributeValues={f":{name}": {"S": text} for name, text in values.items()},
        )
    return deployed


def test_list_shows_both_runs(newer, runctl):
    done = runctl("list", "--json")
    assert done.code == 0
    statuses = {run["run_id"]: run["status"] for run in done.document["runs"]}
    assert statuses == {"ours": "running", "newer": "running"}
    assert "newer" in runctl("list").stdout


def test_status_names_the_unknown_fields_and_hides_their_values(newer, runctl):
    done = runctl("status", "newer", "--json")
    assert done.code == 0
    request = done.document["request"]
    assert (request["kind"], request["racks"], request["market"]) == ("unknown", "***", "unknown")
    assert request["script"] == "serve.py"
    assert (request["checkpoint"]["keep_last"], request["checkpoint"]["key"]) == (2, "***")
    assert "hunter2" not in done.stdout
    assert runctl("status", "newer").code == 0


def test_doctor_reads_on(newer, runctl):
    done = runctl("doctor", "--json")
    assert done.code in {0, 1}
    assert "checks" in done.document
    assert "Traceback" not in done.stderr


def test_reconciliation_cleans_up_after_both_runs(newer):
    world = World(ledger=DynamoLedger(newer.clients.get("dynamodb"), "runctl-ledger"))
    for run_id in ("ours", "newer"):
        world.workflow.ended[newer.workflow.execution_arn(run_id)] = "FAILED"
    done = reconcile(world)
    assert (sorted(done["cleaned"]), done["failed"]) == (["newer", "ours"], [])
    for run_id in ("ours", "newer"):
        assert world.ledger.find_run(run_id).ended is RunStatus.FAILED
