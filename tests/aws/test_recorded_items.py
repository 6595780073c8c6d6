"""Items that version a9fde3c wrote: read by this version, and written by both at once.

Its DynamoLedger wrote `recorded/items.json`: a run, and its attempts, for each stage and end.
"""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from runctl.aws.attributes import text_of
from runctl.aws.ledger import DynamoLedger
from runctl.model.identity import attempt_key, run_key, token_key
from runctl.model.node import NodeId, NodeProgress, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.run import AttemptStage, Existing, Launched, Run, derive_status
from tests.aws.conftest import make_table
from tests.control.fakes import START

ITEMS = json.loads((Path(__file__).parent / "recorded" / "items.json").read_text())
ARN = "arn:aws:states:us-east-1:123456789012:execution:runctl:"
LATER = START + timedelta(hours=1)
LAUNCHING, LAUNCHED, RUNNING, ENDED = AttemptStage


def at(minute: int):
    return START + timedelta(minutes=minute)


class Recorded:
    """A table with the recorded items, and how the version that wrote them updates it."""

    def __init__(self) -> None:
        self.client, self.table = make_table()
        for item in ITEMS:
            self.client.put_item(TableName=self.table, Item=item)
        self.ledger = DynamoLedger(self.client, self.table)

    def run(self, run_id: str) -> Run:
        run = self.ledger.find_run(run_id)
        assert run is not None
        return run

    def attempt(self, run_id: str, number: int = 1):
        attempt = self.ledger.find_attempt(run_id, number)
        assert attempt is not None
        return attempt

    def item(self, key: dict[str, str]) -> dict:
        typed = {name: {"S": value} for name, value in key.items()}
        return self.client.get_item(TableName=self.table, Key=typed)["Item"]

    def update(self, key: dict[str, str], update: str, **values: str) -> None:
        self.client.update_item(
            TableName=self.table,
            Key={name: {"S": value} for name, value in key.items()},
            UpdateExpression=update,
            ExpressionAttributeNames={"#token": "token"} if "#token" in update else {},
            ExpressionAttributeValues={f":{name}": {"S": text} for name, text in values.items()},
        )

    def train(self, run_id: str, *, minute: int) -> None:
        """Give the attempt its token as the other version does."""
        self.update(
            attempt_key(run_id, 1),
            "SET #token = :token, stage = :stage, training_at = if_not_exists(training_at, :now)",
            token="other",
            stage="training",
            now=text_of(at(minute)),
        )


@pytest.fixture
def recorded(aws) -> Recorded:
    return Recorded()


@pytest.mark.parametrize(
    ("run_id", "status", "stages", "running_at", "is_settled"),
    [
        ("launching", RunStatus.LAUNCHING, [LAUNCHING], None, False),
        ("launched", RunStatus.LAUNCHING, [LAUNCHED], None, False),
        ("training", RunStatus.RUNNING, [RUNNING], at(3), False),
        ("recovered", RunStatus.RUNNING, [ENDED, RUNNING], at(11), False),
        ("completed", RunStatus.COMPLETED, [ENDED], at(3), True),
        ("failed", RunStatus.FAILED, [ENDED], at(3), False),
        ("resumed", RunStatus.RECOVERING, [ENDED], at(3), False),
        ("existing-launching", RunStatus.LAUNCHING, [LAUNCHING], None, False),
        ("existing-launched", RunStatus.LAUNCHING, [LAUNCHED], None, False),
        ("existing-training", RunStatus.RUNNING, [RUNNING], at(3), False),
        ("existing-ended", RunStatus.COMPLETED, [ENDED], at(3), True),
    ],
)
def test_recorded_run_is_read_whole(recorded, run_id, status, stages, running_at, is_settled):
    run, attempts = recorded.run(run_id), recorded.ledger.attempts(run_id)
    assert derive_status(run, attempts) is status
    assert [attempt.stage for attempt in attempts] == stages
    assert attempts[-1].running_at == running_at
    assert run.is_settled is is_settled
    assert (run.started_at, run.request.program.script) == (START, "train.py")
    assert (run.request.program.args, run.request.program.env) == (
        ("--epochs", "3"),
        {"MODE": "fast"},
    )
    source = attempts[0].source
    if run.request.resources.instance_id:
        assert source == Existing(run.request.resources.instance_id)
        assert attempts[0].is_on_existing_instance
    else:
        assert source == Launched(json.dumps({"ClientToken": f"{run_id}-1-1"}))


def test_recorded_checkpoint_and_notification_are_read(recorded):
    run = recorded.run("recovered")
    key = "runs/recovered/checkpoints/manifests/"
    assert (run.fence, run.step, run.save, run.best_step) == (2, 40, 2, 40)
    assert (run.newest, run.proven) == (f"{key}000000000002-0001.json",) * 2
    assert (run.suspects, run.committed_at) == ({f"{key}a.json"}, at(6))
    first, second = recorded.ledger.attempts("recovered")
    assert (first.noticed_at, first.ended_at) == (at(7), at(8))
    assert (second.resume_step, second.resume_save, second.progress_step) == (40, 2, 50)
    assert recorded.run("completed").notified_end == at(9)
    assert {run.run_id for run in recorded.ledger.list_runs()} == {
        item["run_id"]["S"] for item in ITEMS if item["sk"]["S"] == "RUN"
    }


def test_recorded_attempt_continues(recorded):
    ledger = recorded.ledger
    held = ledger.open_attempt("launching", 1, launch_try=1, source=Launched("other"), now=LATER)
    assert held.fleet_request == json.dumps({"ClientToken": "launching-1-1"})
    held = ledger.open_attempt("launching", 1, launch_try=2, source=Launched("next"), now=LATER)
    assert (held.launch_try, held.fleet_request) == (2, "next")
    held = ledger.record_launch("launching", 1, instance_ids=["i-1"], pool="a/b/spot", now=LATER)
    assert (held.stage, held.instance_ids) == (LAUNCHED, ("i-1",))
    for run_id in ("launching", "launched", "existing-launched"):
        held = ledger.record_token(
            run_id, 1, token="new", execution_arn=f"{ARN}{run_id}", now=LATER
        )
        assert (held.stage, held.running_at) == (RUNNING, LATER)
    for run_id in ("training", "existing-training", "launched"):
        outcome = Outcome(kind=OutcomeKind.COMPLETED, exit_code=0)
        held = ledger.end_attempt(run_id, 1, outcome=outcome, now=LATER)
        assert (held.stage, held.ended) == (ENDED, outcome)


def test_existing_instance_is_assigned_to_a_recorded_attempt(recorded):
    held = recorded.ledger.record_existing_instance(
        "existing-launching",
        1,
        instance_id=recorded.run("existing-launching").request.resources.instance_id,
        pool="m5.large/us-east-1a/on-demand",
        instead_of=None,
        now=LATER,
    )
    assert (held.stage, held.is_on_existing_instance) == (LAUNCHED, True)


def test_new_token_for_a_recorded_attempt_leaves_its_start(recorded):
    arn = f"{ARN}training"
    held = recorded.ledger.record_token("training", 1, token="new", execution_arn=arn, now=LATER)
    assert (held.stage, held.has_token, held.running_at) == (RUNNING, True, at(3))
    assert recorded.ledger.find_token("training", 1) == "new"
    assert "token" not in recorded.item(attempt_key("training", 1))


def test_the_items_of_a_run_have_no_token(recorded):
    arn = f"{ARN}training"
    recorded.ledger.record_token("training", 1, token="apart", execution_arn=arn, now=LATER)
    found = recorded.client.query(
        TableName=recorded.table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": attempt_key("training", 1)["pk"]}},
    )["Items"]
    assert len(found) > 1
    assert "apart" not in repr(found)
    assert recorded.item(token_key("training", 1))["token"]["S"] == "apart"


def test_the_token_that_another_version_stored_with_its_attempt_is_found(recorded):
    stored = recorded.item(attempt_key("training", 1))["token"]["S"]
    assert recorded.attempt("training").has_token
    assert recorded.ledger.find_token("training", 1) == stored


def test_attempt_that_both_versions_start_keeps_the_first_start(recorded):
    arn = f"{ARN}launched"
    recorded.ledger.record_token("launched", 1, token="new", execution_arn=arn, now=at(20))
    recorded.train("launched", minute=30)
    held = recorded.attempt("launched")
    assert (held.stage, held.has_token, held.running_at) == (RUNNING, True, at(20))
    assert recorded.ledger.find_token("launched", 1) == "other"


def test_end_is_announced_once_whichever_version_announced_it(recorded):
    ledger = recorded.ledger
    ledger.record_notified("failed", end=at(9))
    assert recorded.run("failed").is_settled
    assert "failed" not in ledger.list_unsettled_runs()
    # The other version announced an earlier end of this run.
    assert "resumed" in ledger.list_unsettled_runs()
    ledger.end_run("resumed", status=RunStatus.FAILED, reason="enough", now=LATER)
    assert not recorded.run("resumed").is_settled
    ledger.record_notified("resumed", end=LATER)
    assert recorded.run("resumed").is_settled
    # And announces a later one.
    arn = f"{ARN}resumed-3"
    ledger.resume_run("resumed", execution="resumed-3", execution_arn=arn, first_attempt=2)
    end = LATER + timedelta(minutes=1)
    ledger.end_run("resumed", status=RunStatus.FAILED, reason="enough", now=end)
    assert not recorded.run("resumed").is_settled
    recorded.update(run_key("resumed"), "SET told_end = :end", end=text_of(end))
    assert recorded.run("resumed").is_settled


def test_the_other_version_still_recognizes_an_existing_instance(recorded):
    # Its functions terminate every machine of an attempt without this prefix.
    opened = recorded.ledger.open_attempt(
        "existing-launching", 2, launch_try=1, source=Existing("i-1"), now=LATER
    )
    assert opened.source == Existing("i-1")
    stored = recorded.item(attempt_key("existing-launching", 2))
    assert stored["fleet_request"] == {"S": "lent:i-1"}


def test_recorded_attempt_has_one_node_with_all_that_was_stored(recorded):
    second = recorded.attempt("recovered", 2)
    (node,) = second.nodes
    assert (node.rank, node.stage) == (0, NodeStage.RUNNING)
    assert (node.instance_id, node.pool) == ("i-00000000000000004", "m5.large/us-east-1a/spot")
    assert node.heartbeat_at == second.heartbeat_at is not None
    assert recorded.ledger.find_instance(node.instance_id) == NodeId("recovered", 2, 0)
    (launching,) = recorded.attempt("launching").nodes
    assert (launching.instance_id, launching.stage) == ("", NodeStage.LAUNCHING)


def test_report_of_either_version_counts_if_it_is_the_later(recorded):
    node = NodeId("training", 1, 0)
    recorded.ledger.record_progress(node, NodeProgress(phase="drain", step=70), now=at(20))
    held = recorded.attempt("training")
    assert (held.phase, held.progress_step, held.heartbeat_at) == ("drain", 70, at(20))
    assert held.instance_ids == ("i-00000000000000002",)
    # The agent of the other version writes to the attempt's item.
    where, update = attempt_key("training", 1), "SET phase = :phase, heartbeat_at = :now"
    recorded.update(where, update, phase="upload", now=text_of(at(21)))
    held = recorded.attempt("training")
    assert (held.phase, held.heartbeat_at) == ("upload", at(21))
    recorded.update(where, "SET noticed_at = :now", now=text_of(at(19)))
    recorded.ledger.record_notice(node, now=at(22))
    assert recorded.attempt("training").noticed_at == at(19)
