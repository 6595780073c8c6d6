"""Nothing leaks: reconciliation with its own role, the doctor, and an instance's own shutdown."""

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from typing import Any

import pytest

from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from tests.control.steps import reconcile
from tests.e2e.reconciling import LaterClock, services_to_reconcile
from tests.e2e.sleeping import start_sleeper
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e


def fleets_of(testbed: Testbed, run_id: str) -> dict[str, str]:
    """Return the state of each fleet of a run."""
    ec2 = testbed.clients.get("ec2")
    filters = [
        {"Name": "resource-type", "Values": ["fleet"]},
        {"Name": "key", "Values": ["runctl:run-id"]},
        {"Name": "value", "Values": [run_id]},
    ]
    ids = [tag["ResourceId"] for tag in ec2.describe_tags(Filters=filters)["Tags"]]
    found = ec2.describe_fleets(FleetIds=ids)["Fleets"] if ids else []
    return {fleet["FleetId"]: fleet["FleetState"] for fleet in found}


def volumes_of(testbed: Testbed, run_id: str) -> int:
    """Count a run's volumes, by the tag set at launch."""
    filters = [{"Name": "tag:runctl:run-id", "Values": [run_id]}]
    return len(testbed.clients.get("ec2").describe_volumes(Filters=filters)["Volumes"])


def doctor(testbed: Testbed, *options: str) -> tuple[int, dict[str, Any]]:
    """Run `runctl --local doctor` as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "runctl.cli.main", "doctor", "--json", *options],
        env={**os.environ, **testbed.endpoint.environment()},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_nothing_is_left_of_ended_runs_and_live_ones_are_untouched(testbed: Testbed, new_name):
    over, lost, going_on = new_name(), new_name(), new_name()
    for name, seconds in ((over, 0), (lost, 600), (going_on, 600)):
        start_sleeper(testbed, name, seconds)
    testbed.wait_for_training_completion(over)
    testbed.wait_for_no_instance(over)
    for name in (lost, going_on):
        testbed.wait_for_training(name)
    # According to the ledger it is over, but nothing terminated its machine.
    now = datetime.now(timezone.utc)
    testbed.ledger.end_attempt(lost, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=now)
    testbed.ledger.end_run(lost, status=RunStatus.FAILED, reason="lost", now=now)
    later = services_to_reconcile(testbed, LaterClock())
    done = reconcile(later)
    assert done["failed"] == []
    assert set(fleets_of(testbed, over)) <= set(done["fleets_deleted"])
    assert set(fleets_of(testbed, over).values()) == {"deleted_terminating"}
    testbed.wait_for_no_instance(lost)
    # One reconciliation terminates the machine; the next has seen that, and deletes its fleet.
    assert reconcile(later)["failed"] == []
    assert set(fleets_of(testbed, lost).values()) == {"deleted_terminating"}
    assert set(fleets_of(testbed, going_on).values()) == {"active"}
    assert len(testbed.live_instances(going_on)) == 1
    assert [volumes_of(testbed, run_id) for run_id in (over, lost, going_on)] == [0, 0, 1]
    code, found = doctor(testbed)
    told = [finding for check in found["checks"] for finding in check["findings"]]
    assert going_on not in {finding["run_id"] for finding in told}
    assert all(not check["problem"] for check in found["checks"])
    assert (code == 0) == (not told)
    testbed.workflow.stop_run(testbed.workflow.execution_arn(going_on), cause="seen enough")
    testbed.wait_for_no_instance(going_on)
    # The end of its machine was reported to the state machine after the run had ended: nothing
    # follows.
    assert testbed.wait_for_end(lost).status == "FAILED"


def test_an_instance_whose_agent_is_killed_and_not_restarted_shuts_itself_down(
    testbed: Testbed, new_name
):
    run_id = start_sleeper(testbed, new_name(), 600)
    testbed.wait_for_training(run_id)
    instance_id = testbed.wait_for_launch(run_id, attempt=1)
    unit = '"$RUNCTL_ROOT/etc/systemd/system/runctl-agent.service"'
    killed = [
        f"rm {unit}",  # nothing can start it again
        "systemctl kill -s SIGKILL runctl-agent.service",
        "echo RUNCTL_DEADMAN_SECONDS=0 > $RUNCTL_ROOT/etc/runctl/deadman.env",
        "systemctl start runctl-deadman.service",
    ]
    testbed.clients.get("ssm").send_command(
        InstanceIds=[instance_id],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": killed},
    )
    wait_for(
        lambda: testbed.cloud.instance(instance_id)["state"] == "terminated",
        f"{instance_id} to end itself",
    )
    assert testbed.cloud.instance(instance_id)["reason"] == "Client.InstanceInitiatedShutdown"
    testbed.workflow.stop_run(testbed.workflow.execution_arn(run_id), cause="seen enough")
    testbed.wait_for_no_instance(run_id)
