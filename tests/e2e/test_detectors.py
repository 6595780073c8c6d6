"""Machines lost for reasons other than a spot reclaim, with the roles of the deployment."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from runctl.aws.attributes import text_of
from runctl.model.identity import attempt_key, node_key
from runctl.model.outcome import OutcomeKind
from runctl.model.run import Attempt
from tests.e2e.gated import EVERY, GatedRun
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

INTERRUPTED, LOST, COMPLETED = OutcomeKind.INTERRUPTED, OutcomeKind.LOST, OutcomeKind.COMPLETED


@pytest.fixture
def run(testbed: Testbed, new_name, tmp_path: Path) -> GatedRun:
    testbed.cloud.set_knobs(boot_delay=0.05, shutdown_grace=1)
    return GatedRun(testbed, new_name(), tmp_path / "gate")


def first_of(testbed: Testbed, run: GatedRun, **request) -> str:
    run.start(**request)
    testbed.wait_for_training(run.run_id, attempt=1, step=EVERY)
    return testbed.wait_for_launch(run.run_id, attempt=1)


def kinds(attempts: list[Attempt]) -> list[OutcomeKind]:
    return [attempt.ended.kind for attempt in attempts if attempt.ended is not None]


def reconcile(testbed: Testbed) -> dict:
    answer = testbed.clients.get("lambda").invoke(FunctionName="runctl-reconcile", Payload=b"{}")
    return json.loads(answer["Payload"].read())


def test_a_machine_is_reclaimed_for_its_reservation(testbed: Testbed, run: GatedRun):
    """The metadata shows nothing: the event alone causes a save and a replacement."""
    first = first_of(testbed, run, market="on-demand")
    testbed.cloud.end_reservation(first, notice_seconds=45)
    testbed.wait_for_launch(run.run_id, attempt=2)
    assert testbed.cloud.instance(first)["state"] == "running"
    testbed.wait_for_training(run.run_id, attempt=2)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, COMPLETED], testbed.story(run.run_id)
    assert attempts[0].noticed_at is not None
    assert attempts[1].resume_step == attempts[0].ended.step
    assert testbed.cloud.instance(first)["ended_by"] == "taken for its reservation"


def test_a_machine_fails_its_checks_and_goes_silent(testbed: Testbed, run: GatedRun):
    first = first_of(testbed, run)
    testbed.cloud.impair(first, check="system", since_seconds=600)
    assert reconcile(testbed)["asked_to_save"] == [first]
    testbed.cloud.impair(first, check="system", since_seconds=600, hangs=True)
    assert reconcile(testbed)["replaced"] == []
    make_silent(testbed, run.run_id)
    assert reconcile(testbed)["replaced"] == [first]
    testbed.wait_for_training(run.run_id, attempt=2)
    attempts = run.finish()
    assert kinds(attempts) == [LOST, COMPLETED], testbed.story(run.run_id)
    assert "system status check" in attempts[0].ended.reason
    assert testbed.cloud.instance(first)["reason"] == "Client.UserInitiatedShutdown"


def make_silent(testbed: Testbed, run_id: str) -> None:
    """Backdate the last heartbeat."""
    before = text_of(datetime.now(timezone.utc) - timedelta(minutes=3))
    for key, name in [
        (attempt_key(run_id, 1), "running_at"),
        (node_key(run_id, 1, 0), "heartbeat_at"),
    ]:
        testbed.clients.get("dynamodb").update_item(
            TableName=testbed.deployment.table,
            Key={part: {"S": value} for part, value in key.items()},
            UpdateExpression=f"SET {name} = :at",
            ExpressionAttributeValues={":at": {"S": before}},
        )


def test_a_run_leaves_a_machine_before_its_retirement(testbed: Testbed, run: GatedRun):
    first = first_of(testbed, run)
    far = testbed.cloud.schedule_maintenance(first, code="instance-retirement", in_seconds=86400)
    wait_for(
        lambda: "instance-retirement" in testbed.attempts(run.run_id)[0].warning,
        "the status to show the maintenance",
    )
    assert testbed.attempts(run.run_id)[0].ended is None
    testbed.cloud.cancel_maintenance(first, far["event_id"])
    testbed.cloud.schedule_maintenance(first, code="instance-retirement", in_seconds=600)
    testbed.wait_for_training(run.run_id, attempt=2)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, COMPLETED], testbed.story(run.run_id)
    assert "instance-retirement" in attempts[0].ended.reason
    assert attempts[0].noticed_at is None
    assert attempts[1].resume_step == attempts[0].ended.step
    assert testbed.cloud.instance(first)["reason"] == "Client.InstanceInitiatedShutdown"
