"""Functions: each has its code, its own role and log, and a queue for failed events."""

from pathlib import Path

import pytest

from runctl.model.ec2_events import KINDS
from stacks.workflows.definition import definition_names
from tests.infra.templates import Synthesized

LAMBDAS = Path(__file__).parents[2] / "lambdas"
NAMES = sorted(path.stem for path in LAMBDAS.glob("*.py") if "def handler(" in path.read_text())
ASYNCHRONOUS = {
    "handle_interruption",
    "handle_instance_change",
    "clean_up",
    "reconcile",
    "prune_environments",
}


def test_handlers_exist() -> None:
    assert len(NAMES) == 22


def test_each_handler_is_a_function_and_each_function_a_handler(app: Synthesized) -> None:
    handlers = {function.properties["Handler"] for function in app.of_type("AWS::Lambda::Function")}
    assert handlers == {f"lambdas.{name}.handler" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_python_on_arm(app: Synthesized, name: str) -> None:
    function = app.function(name).properties
    assert function["Runtime"] == "python3.13"
    assert function["Architectures"] == ["arm64"]


def test_no_two_functions_share_a_role(app: Synthesized) -> None:
    roles = [function.properties["Role"] for function in app.of_type("AWS::Lambda::Function")]
    # `train` is deployed under its earlier name, too.
    assert len(set(roles)) == len(roles) == len(NAMES) + 1


@pytest.mark.parametrize("name", NAMES)
def test_it_writes_only_to_its_own_log(app: Synthesized, name: str) -> None:
    function = app.function(name).properties
    group = f"/aws/lambda/runctl-{name}"
    assert function["LoggingConfig"]["LogGroup"] == group
    assert app.one("AWS::Logs::LogGroup", LogGroupName=group).properties["RetentionInDays"] == 30
    role = app.role(function["Role"])
    streams = "arn:aws:logs:us-east-1:000000000000:log-group:{}:log-stream:x"
    assert role.allows("logs:PutLogEvents", streams.format(group))
    assert not role.allows("logs:PutLogEvents", streams.format("/aws/lambda/runctl-other"))


@pytest.mark.parametrize("name", sorted(ASYNCHRONOUS))
def test_an_event_that_it_cannot_handle_is_kept(app: Synthesized, name: str) -> None:
    function = app.function(name)
    (queue,) = app.of_type("AWS::SQS::Queue")
    arn = f"arn:aws:sqs:us-east-1:000000000000:<{queue.logical_id}>"
    assert function.properties["DeadLetterConfig"] == {"TargetArn": arn}
    assert app.role(function.properties["Role"]).allows("sqs:SendMessage", arn)
    limits = app.one("AWS::Lambda::EventInvokeConfig", FunctionName=f"runctl-{name}").properties
    assert limits["MaximumRetryAttempts"] == 2
    assert limits["MaximumEventAgeInSeconds"] <= 6 * 3600


def test_only_event_handlers_have_a_dead_letter_queue(app: Synthesized) -> None:
    functions = app.of_type("AWS::Lambda::Function")
    having = {
        function.properties["FunctionName"]
        for function in functions
        if "DeadLetterConfig" in function.properties
    }
    assert having == {f"runctl-{name}" for name in ASYNCHRONOUS}


def test_every_rule_keeps_events_that_it_cannot_deliver(app: Synthesized) -> None:
    rules = app.of_type("AWS::Events::Rule")
    assert len(rules) == 5
    for rule in rules:
        (target,) = rule.properties["Targets"]
        assert "Arn" in target["DeadLetterConfig"]
        assert target["RetryPolicy"]["MaximumRetryAttempts"] == 30
        assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] <= 6 * 3600


@pytest.mark.parametrize(
    ("function", "source", "kinds"),
    [
        (
            "handle_interruption",
            "aws.ec2",
            list(KINDS),
        ),
        ("handle_instance_change", "aws.ec2", ["EC2 Instance State-change Notification"]),
        ("clean_up", "aws.states", ["Step Functions Execution Status Change"]),
    ],
)
def test_events_reach_their_function(
    app: Synthesized, function: str, source: str, kinds: list[str]
) -> None:
    arn = f"arn:aws:lambda:us-east-1:000000000000:function:runctl-{function}"
    (rule,) = (
        rule
        for rule in app.of_type("AWS::Events::Rule")
        if rule.properties["Targets"][0]["Arn"] == arn
    )
    assert rule.properties["EventPattern"]["source"] == [source]
    assert rule.properties["EventPattern"]["detail-type"] == kinds


def test_clean_up_receives_events_of_our_executions_only(app: Synthesized) -> None:
    (pattern,) = (
        rule.properties["EventPattern"]
        for rule in app.of_type("AWS::Events::Rule")
        if rule.properties.get("EventPattern", {}).get("source") == ["aws.states"]
    )
    assert pattern["detail"] == {
        "stateMachineArn": [
            f"arn:aws:states:us-east-1:000000000000:stateMachine:runctl-{name}"
            for name in definition_names()
        ],
        "status": ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"],
    }


@pytest.mark.parametrize(
    ("function", "schedule", "oldest"),
    [
        ("reconcile", "rate(15 minutes)", 15 * 60),
        ("prune_environments", "rate(1 day)", 6 * 3600),
    ],
)
def test_reconciliations_run_every_quarter_of_an_hour_and_environments_are_pruned_daily(
    app: Synthesized, function: str, schedule: str, oldest: int
) -> None:
    (rule,) = (
        rule.properties
        for rule in app.of_type("AWS::Events::Rule")
        if rule.properties["Targets"][0]["Arn"].endswith(f":runctl-{function}")
    )
    assert (rule["ScheduleExpression"], rule["State"]) == (schedule, "ENABLED")
    (target,) = rule["Targets"]
    assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] == oldest


def test_every_rule_may_invoke_its_function(app: Synthesized) -> None:
    for rule in app.of_type("AWS::Events::Rule"):
        (target,) = rule.properties["Targets"]
        allowed = app.one(
            "AWS::Lambda::Permission", SourceArn=f"<{rule.logical_id}.Arn>"
        ).properties
        assert allowed["FunctionName"] == target["Arn"]


def test_reconciliation_identifies_our_machines_by_their_security_group(
    app: Synthesized,
) -> None:
    (group,) = (
        group
        for group in app.of_type("AWS::EC2::SecurityGroup")
        if group.logical_id.startswith("NetworkSecurityGroup")
    )
    variables = app.function("reconcile").properties["Environment"]["Variables"]
    assert variables["RUNCTL_SECURITY_GROUP"] == f"<{group.logical_id}.GroupId>"
