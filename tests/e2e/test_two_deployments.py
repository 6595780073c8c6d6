"""Two deployments in one account and region, with runs of the same name, do not interfere."""

import json
import os
import subprocess
import sys
from datetime import datetime, timezone

import pytest
from botocore.exceptions import ClientError

from runctl.local.deploy import deploy
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from tests.control.steps import reconcile
from tests.e2e.reconciling import LaterClock, RoleClients, services_to_reconcile
from tests.e2e.sleeping import start_sleeper
from tests.e2e.testbed import PROJECT, Testbed

# The fixtures deploy twice.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def second(testbed: Testbed) -> Testbed:
    """Deploy again, under another name, next to the deployment of all tests."""
    deploy(testbed.endpoint, project=PROJECT, context={"name": "second"}, warm_functions=False)
    return Testbed(testbed.endpoint, name="second")


@pytest.fixture
def same(testbed: Testbed, second: Testbed, new_name) -> str:
    """Start runs of the same name in both deployments, and wait until both train."""
    run_id = new_name()
    for deployed in (testbed, second):
        start_sleeper(deployed, run_id)
    for deployed in (testbed, second):
        deployed.wait_for_training(run_id)
    return run_id


def end(testbed: Testbed, run_id: str) -> None:
    testbed.workflow.stop_run(testbed.workflow.execution_arn(run_id), cause="seen enough")
    testbed.wait_for_no_instance(run_id)


def test_runs_of_the_same_name_have_separate_machines_and_stopping_one_spares_the_other(
    testbed: Testbed, second: Testbed, same: str
):
    first_machine, second_machine = (
        deployed.wait_for_launch(same, attempt=1) for deployed in (testbed, second)
    )
    assert first_machine != second_machine
    end(testbed, same)
    assert second.live_instances(same) == [second_machine]
    assert second.execution(same).is_running
    end(second, same)


def test_reconciliation_of_one_deployment_spares_the_other(
    testbed: Testbed, second: Testbed, same: str
):
    # According to the first ledger the run is over, but nothing terminated its machine.
    now = datetime.now(timezone.utc)
    testbed.ledger.end_attempt(same, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=now)
    testbed.ledger.end_run(same, status=RunStatus.FAILED, reason="lost", now=now)
    later = services_to_reconcile(testbed, LaterClock())
    done = reconcile(later)
    assert done["failed"] == []
    testbed.wait_for_no_instance(same)
    reconcile(later)
    machine = second.wait_for_launch(same, attempt=1)
    assert machine not in done["terminated"]
    assert second.live_instances(same) == [machine]
    end(second, same)


def test_the_permissions_of_one_deployment_exclude_the_machines_and_fleets_of_the_other(
    testbed: Testbed, second: Testbed, same: str
):
    machine = second.wait_for_launch(same, attempt=1)
    role = testbed.clients.get("lambda").get_function_configuration(FunctionName="runctl-reconcile")
    clients = RoleClients(testbed, role["Role"])
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        clients.get("ec2").terminate_instances(InstanceIds=[machine])
    tags = testbed.clients.get("ec2").describe_tags(
        Filters=[
            {"Name": "resource-type", "Values": ["fleet"]},
            {"Name": "key", "Values": ["runctl:deployment"]},
            {"Name": "value", "Values": ["second"]},
        ]
    )["Tags"]
    assert tags
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        clients.get("ec2").delete_fleets(FleetIds=[tags[0]["ResourceId"]], TerminateInstances=True)
    with pytest.raises(ClientError, match="AccessDenied"):
        clients.get("ssm").send_command(
            InstanceIds=[machine], DocumentName="runctl-agent", Parameters={"action": ["stop"]}
        )
    for deployed in (testbed, second):
        end(deployed, same)


def test_the_command_line_reaches_the_named_deployment(testbed: Testbed, second: Testbed, new_name):
    run_id = start_sleeper(second, new_name())
    second.wait_for_training(run_id)
    named = {
        name: subprocess.run(
            [sys.executable, "-m", "runctl.cli.main", "status", run_id, "--local", "--json"],
            env={**os.environ, "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home), **variables},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        for name, variables in (("runctl", {}), ("second", {"RUNCTL_DEPLOYMENT": "second"}))
    }
    assert named["second"].returncode == 0, named["second"].stderr
    assert named["runctl"].returncode == 4, named["runctl"].stderr
    error = json.loads(named["runctl"].stdout)["error"]
    assert f"run '{run_id}' does not exist" in error["message"]
    end(second, run_id)
