"""The walk of `runctl verify` through every state of the real definitions finds nothing."""

from __future__ import annotations

import json

import pytest

from runctl.aws.deployed_account import AwsDeployedAccount
from runctl.control.verification.workflows import walk_states
from runctl.model.deployed import StateMachine
from stacks.workflows.definition import definition_names, placeholders, read_definition, rendered
from tests.workflow.scripted import ScriptedWorkflow


class Clients:
    """The clients of the local cloud."""

    def __init__(self, workflow: ScriptedWorkflow) -> None:
        self.get = workflow.cloud.client


@pytest.mark.parametrize("name", definition_names())
def test_every_state_passes(workflow: ScriptedWorkflow, name: str) -> None:
    definition = read_definition(name)
    arn = "arn:aws:lambda:us-east-1:000000000000:function:runctl-"
    text = rendered(
        definition, {key: f"{arn}{key}" for key in placeholders(definition)}.__getitem__
    )
    machine = StateMachine(arn=f"stateMachine:runctl-{name}", definition=json.loads(text))
    account = AwsDeployedAccount(Clients(workflow), "runctl")
    walk = walk_states(machine, prefix="runctl-", test=account.test_state)
    assert walk.findings == []
    assert walk.tests > len(definition["States"])
