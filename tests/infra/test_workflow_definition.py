"""The definition of the state machine and everything that it names."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.control.prepare_run import STARTED_BY
from runctl.local.core.permissions import REQUIRED
from runctl.model import errors
from runctl.policy.heartbeat import MAX_SILENCE
from stacks.workflows.definition import placeholders, read_definition
from tests.infra.templates import ACCOUNT, REGION, Synthesized

LAMBDAS = Path(__file__).parents[2] / "lambdas"
DEFINITION = read_definition()
STATES: dict[str, dict[str, Any]] = DEFINITION["States"]
TASKS = {
    name: state
    for name, state in STATES.items()
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
    for state in STATES.values():
        for rule in [*state.get("Retry", []), *state.get("Catch", [])]:
            yield from rule["ErrorEquals"]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_calls_the_function_of_its_name(name: str) -> None:
    function = snake(name)
    assert TASKS[name]["Arguments"]["FunctionName"] == f"${{{function}}}"
    assert (LAMBDAS / f"{function}.py").exists()


def test_exactly_the_placeholders_are_bound(app: Synthesized) -> None:
    (machine,) = app.of_type("AWS::StepFunctions::StateMachine")
    bound = machine.properties["DefinitionSubstitutions"]
    assert set(bound) == placeholders(DEFINITION)
    where = "arn:aws:lambda:us-east-1:000000000000:function"
    assert bound == {name: f"{where}:runctl-{name}" for name in bound}


def test_the_deployed_definition_is_the_file(app: Synthesized) -> None:
    (machine,) = app.of_type("AWS::StepFunctions::StateMachine")
    assert json.loads(machine.properties["DefinitionString"]) == DEFINITION
    assert machine.properties["StateMachineName"] == "runctl-train"


def test_its_log_contains_every_step_and_no_data(app: Synthesized) -> None:
    (machine,) = app.of_type("AWS::StepFunctions::StateMachine")
    logging = machine.properties["LoggingConfiguration"]
    assert (logging["Level"], logging["IncludeExecutionData"]) == ("ALL", False)


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
    train = TASKS["Train"]
    assert train["Resource"].endswith(".waitForTaskToken")
    assert train["HeartbeatSeconds"] == "{% $states.input.heartbeat_seconds %}"
    assert MAX_SILENCE.total_seconds() < train["TimeoutSeconds"]
    assert train["TimeoutSeconds"] == 14 * 24 * 3600
    assert TASKS["Train"]["Catch"][0]["ErrorEquals"] == ["States.HeartbeatTimeout"]


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
    (machine,) = app.of_type("AWS::StepFunctions::StateMachine")
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
    (machine,) = app.of_type("AWS::StepFunctions::StateMachine")
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


def test_every_state_can_be_reached() -> None:
    reached, waiting = set[str](), [DEFINITION["StartAt"]]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        state = STATES[name]
        rules = [*state.get("Choices", []), *state.get("Catch", [])]
        waiting += [state[key] for key in ("Next", "Default") if key in state]
        waiting += [rule["Next"] for rule in rules]
    assert reached == set(STATES)
