"""A deployment is upgraded while a run of the earlier version is training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.model.outcome import OutcomeKind
from stacks.workflows.definition import read_definition_file, rendered
from tests.e2e.gated import EVERY, GatedRun
from tests.e2e.role_use import stack_roles
from tests.e2e.testbed import PROJECT, Testbed

pytestmark = pytest.mark.e2e

RECORDED = PROJECT / "tests" / "workflow" / "recorded" / "before-variables.asl.yaml"
# Definitions of versions before that one differ in the name of this function alone.
EARLIER_NAMES = {"train": "start_training"}
# What earlier policies of the role of runs lacked.
ADDED_LATER = {"WaitForGroup", "OfferInstance", "StoreEnvironmentsOfGroup"}


@pytest.fixture(params=[{}, EARLIER_NAMES], ids=["before-variables", "before-train"])
def earlier_definition(request: pytest.FixtureRequest, testbed: Testbed) -> str:
    """A definition that was deployed once, bound to the functions that are deployed now."""
    client = testbed.clients.get("stepfunctions")
    current = client.describe_state_machine(stateMachineArn=testbed.deployment.state_machine_arn)
    (arn,) = {
        state["Arguments"]["FunctionName"]
        for name, state in json.loads(current["definition"])["States"].items()
        if name == "PrepareRun"
    }
    prefix = arn.removesuffix("prepare_run")
    assert prefix != arn
    names: dict[str, str] = request.param
    return rendered(read_definition_file(RECORDED), lambda name: prefix + names.get(name, name))


@pytest.fixture
def upgrade_role(testbed: Testbed) -> Iterator[Callable[[], None]]:
    """Give the role of runs an earlier policy; return what puts the one of today in its place.

    CloudFormation changes the policy of a role in place as well: sessions are open meanwhile.
    """
    iam, role = testbed.clients.get("iam"), stack_roles(testbed)["sessions of runs"]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    today = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    earlier = [each for each in today["Statement"] if each.get("Sid") not in ADDED_LATER]
    assert len(earlier) == len(today["Statement"]) - len(ADDED_LATER)

    def put(statements: list[dict[str, Any]]) -> None:
        text = json.dumps({**today, "Statement": statements})
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=text)

    put(earlier)
    try:
        yield lambda: put(today["Statement"])
    finally:
        put(today["Statement"])


def test_a_run_that_started_before_an_upgrade_survives_an_interruption_after_it(
    testbed: Testbed,
    new_name,
    tmp_path: Path,
    earlier_definition: str,
    upgrade_role: Callable[[], None],
):
    client = testbed.clients.get("stepfunctions")
    machine = testbed.deployment.state_machine_arn
    deployed = client.describe_state_machine(stateMachineArn=machine)["definition"]
    run = GatedRun(testbed, new_name(), tmp_path / "gate")
    client.update_state_machine(stateMachineArn=machine, definition=earlier_definition)
    try:
        run.start()
        testbed.wait_for_training(run.run_id, step=EVERY)
    finally:
        client.update_state_machine(stateMachineArn=machine, definition=deployed)
        upgrade_role()

    # The first agent saves and reports with the session that it got before the upgrade.
    testbed.interrupt(run.run_id, attempt=1)
    testbed.wait_for_training(run.run_id, attempt=2)

    arn = testbed.workflow.execution_arn(run.run_id)
    followed = client.describe_state_machine_for_execution(executionArn=arn)["definition"]
    assert json.loads(followed) == json.loads(earlier_definition)
    first, second = run.finish()
    assert first.ended is not None
    assert first.ended.kind is OutcomeKind.INTERRUPTED
    assert first.ended.step == second.resume_step
    assert (second.resume_step or 0) >= EVERY
