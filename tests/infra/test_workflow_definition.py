"""The definitions of the state machines and everything that they name."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runctl.control.execution_start import STARTED_BY
from runctl.model import errors
from runctl.model.permissions import REQUIRED
from runctl.policy.heartbeat import MAX_SILENCE
from stacks.workflows.definition import (
    all_states,
    called_functions,
    definition_names,
    inner_definitions,
    placeholders,
    read_definition,
)
from tests.infra.templates import ACCOUNT, REGION, Resource, Synthesized

LAMBDAS = Path(__file__).parents[2] / "lambdas"
NAMES = definition_names()
DEFINITIONS = {name: read_definition(name) for name in NAMES}
STATES: dict[str, dict[str, Any]] = DEFINITIONS["train"]["States"]
TASKS = {
    f"{definition}.{name}": state
    for definition, document in DEFINITIONS.items()
    for name, state in all_states(document)
    if state["Type"] == "Task" and ":lambda:" in state["Resource"]
}
SERVICE_ERRORS = {
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Sandbox.Timedout",
    "TransientError",
}


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def error_names() -> Iterator[str]:
    states = [state for each in DEFINITIONS.values() for _, state in all_states(each)]
    for state in states:
        for rule in [*state.get("Retry", []), *state.get("Catch", [])]:
            yield from rule["ErrorEquals"]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_calls_the_function_of_its_name(name: str) -> None:
    function = snake(name.partition(".")[2])
    assert TASKS[name]["Arguments"]["FunctionName"] == f"${{{function}}}"
    assert (LAMBDAS / f"{function}.py").exists()


def machine_of(app: Synthesized, definition: str) -> Resource:
    return app.one("AWS::StepFunctions::StateMachine", StateMachineName=f"runctl-{definition}")


def test_each_definition_is_deployed(app: Synthesized) -> None:
    machines = app.of_type("AWS::StepFunctions::StateMachine")
    names = {machine.properties["StateMachineName"] for machine in machines}
    assert names == {f"runctl-{name}" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_placeholders_are_bound(app: Synthesized, name: str) -> None:
    bound = machine_of(app, name).properties["DefinitionSubstitutions"]
    assert set(bound) == placeholders(DEFINITIONS[name])
    where = "arn:aws:lambda:us-east-1:000000000000:function"
    functions = called_functions(DEFINITIONS[name])
    assert {name: bound[name] for name in functions} == {
        name: f"{where}:runctl-{name}" for name in functions
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_deployed_definition_is_the_file(app: Synthesized, name: str) -> None:
    machine = machine_of(app, name)
    assert json.loads(machine.properties["DefinitionString"]) == DEFINITIONS[name]


@pytest.mark.parametrize("name", NAMES)
def test_its_log_contains_every_step_and_no_data(app: Synthesized, name: str) -> None:
    logging = machine_of(app, name).properties["LoggingConfiguration"]
    assert (logging["Level"], logging["IncludeExecutionData"]) == ("ALL", False)


@pytest.mark.parametrize("name", NAMES)
def test_the_log_group_of_a_machine_is_its_own(app: Synthesized, name: str) -> None:
    assert app.one("AWS::Logs::LogGroup", LogGroupName=f"/aws/vendedlogs/states/runctl-{name}")


@pytest.mark.parametrize("error", sorted(set(error_names())))
def test_every_named_error_exists(error: str) -> None:
    services = ("CodeBuild.", "Lambda.", "StepFunctions.")
    if not error.startswith(("States.", "Sandbox.", "Runtime.", *services)):
        raised = getattr(errors, error)
        assert inspect.isclass(raised)
        assert issubclass(raised, errors.RunctlError)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_retries_transient_errors_and_catches_the_rest(name: str) -> None:
    retried = {error for rule in TASKS[name]["Retry"] for error in rule["ErrorEquals"]}
    assert retried >= SERVICE_ERRORS
    assert TASKS[name]["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
    assert "TimeoutSeconds" in TASKS[name]


def test_train_has_a_heartbeat_that_is_shorter_than_its_timeout() -> None:
    train = STATES["Train"]
    assert train["Resource"].endswith(".waitForTaskToken")
    assert train["HeartbeatSeconds"] == "{% $states.input.heartbeat_seconds %}"
    assert MAX_SILENCE.total_seconds() < train["TimeoutSeconds"]
    assert train["TimeoutSeconds"] == 14 * 24 * 3600
    assert train["Catch"][0]["ErrorEquals"] == ["States.HeartbeatTimeout"]


def test_a_run_continues_in_the_same_state_machine_and_its_input_names_the_parent() -> None:
    state = STATES["ContinueRun"]
    assert state["Resource"] == "arn:aws:states:::states:startExecution.sync:2"
    assert state["Arguments"]["StateMachineArn"] == "{% $states.context.StateMachine.Id %}"
    assert set(state["Arguments"]["Input"]) == {"run_id", STARTED_BY}
    assert state["Catch"][-1] == {**state["Catch"][-1], "ErrorEquals": ["States.ALL"]}
    assert state["Next"] == "Result"


def test_a_build_is_started_once_and_never_outlived_by_the_state(app: Synthesized) -> None:
    state = STATES["BuildImage"]
    assert state["Resource"] == "arn:aws:states:::codebuild:startBuild.sync"
    assert "Execution.Name" in state["Arguments"]["IdempotencyToken"]
    assert [rule["ErrorEquals"] for rule in state["Catch"]] == [["States.ALL"]]
    assert {state["Next"], state["Catch"][0]["Next"]} == {"RecordImage"}
    projects = app.of_type("AWS::CodeBuild::Project")
    for project in projects:
        minutes = (
            project.properties["TimeoutInMinutes"] + project.properties["QueuedTimeoutInMinutes"]
        )
        assert minutes * 60 < state["TimeoutSeconds"]
    machine = machine_of(app, "train")
    role = app.role(machine.properties["RoleArn"])
    ours = [f"<{project.logical_id}.Arn>" for project in projects]
    for action in ("StartBuild", "StopBuild", "BatchGetBuilds"):
        assert all(role.allows(f"codebuild:{action}", arn, {}) for arn in ours)
        assert not role.allows(
            f"codebuild:{action}", f"arn:aws:codebuild:{REGION}:{ACCOUNT}:project/other", {}
        )
    rule = "rule/StepFunctionsGetEventForCodeBuildStartBuildRule"
    for action in ("PutRule", "PutTargets", "DescribeRule"):
        assert role.allows(f"events:{action}", f"arn:aws:events:{REGION}:{ACCOUNT}:{rule}", {})


def test_the_state_machine_may_run_itself_and_wait_for_the_result(app: Synthesized) -> None:
    machine = machine_of(app, "train")
    role = app.role(machine.properties["RoleArn"])
    where = f"arn:aws:{{}}:{REGION}:{ACCOUNT}:{{}}"
    facts = {
        "machine": where.format("states", "stateMachine:runctl-train"),
        "execution": where.format("states", "execution:runctl-train:a-run-r2"),
        "rule": where.format("events", "rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"),
    }
    for required in REQUIRED["states", "states:startExecution.sync:2"]:
        for resource in required.resources:
            assert role.allows(required.action, resource.format(**facts), {})
    elsewhere = where.format("states", "stateMachine:another")
    assert not role.allows("states:StartExecution", elsewhere, {})


def test_a_task_outlasts_its_function(app: Synthesized) -> None:
    for state in TASKS.values():
        function = state["Arguments"]["FunctionName"].strip("${}")
        assert app.function(function).properties["Timeout"] < state["TimeoutSeconds"]


@pytest.mark.parametrize("name", NAMES)
def test_every_state_can_be_reached(name: str) -> None:
    assert set(reachable(DEFINITIONS[name])) == {name for name, _ in all_states(DEFINITIONS[name])}


def reachable(definition: Mapping[str, Any]) -> Iterator[str]:
    """Yield the states that a definition can enter, also inside a Map."""
    reached, waiting = set[str](), [definition["StartAt"]]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        yield name
        state = definition["States"][name]
        rules = [*state.get("Choices", []), *state.get("Catch", [])]
        waiting += [state[key] for key in ("Next", "Default") if key in state]
        waiting += [rule["Next"] for rule in rules]
        for inner in inner_definitions(state):
            yield from reachable(inner)
