"""Tasks of state machines start builds and wait for them, and stop them with themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.builds import LOGS, describe, output, project, service_role, spec
from tests.local.clouds import Cloud, eventually

pytestmark = pytest.mark.slow

SYNC = "arn:aws:states:::codebuild:startBuild.sync"
RULE = "arn:aws:events:us-east-1:000000000000:rule/StepFunctionsGetEventForCodeBuildStartBuildRule"


def task(name: str, resource: str = SYNC, **fields: Any) -> dict[str, Any]:
    arguments = {"ProjectName": name, **fields.pop("arguments", {})}
    return {
        "Build": {
            "Type": "Task",
            "Resource": resource,
            "Arguments": arguments,
            "End": True,
            **fields,
        }
    }


def only_build(cloud: Cloud, name: str) -> str:
    """Wait until the project has a build that runs its commands, and return its id."""

    def check() -> str | None:
        ids = cloud.client("codebuild").list_builds_for_project(projectName=name)["ids"]
        return ids[0] if ids and describe(cloud, ids[0])["currentPhase"] == "BUILD" else None

    build_id: str = eventually(check)
    return build_id


def test_a_task_waits_for_its_build_and_returns_it(cloud: Cloud) -> None:
    name = project(cloud, spec('echo "$GREETING"'))
    variables = [{"Name": "GREETING", "Value": "{% $states.input.text %}", "Type": "PLAINTEXT"}]
    logs = {"CloudWatchLogs": {"Status": "ENABLED", "GroupName": "/g", "StreamName": "run/image"}}
    arguments = {
        "EnvironmentVariablesOverride": variables,
        "LogsConfigOverride": logs,
        "IdempotencyToken": "token-1",
    }
    execution = cloud.start(cloud.machine(task(name, arguments=arguments)), {"text": "hello"})
    found = cloud.ended(execution)
    assert found["status"] == "SUCCEEDED"
    build = json.loads(found["output"])["Build"]
    assert (build["BuildStatus"], build["BuildComplete"]) == ("SUCCEEDED", True)
    assert build["ProjectName"] == name
    described = describe(cloud, build["Id"])
    assert build["Logs"]["StreamName"] == described["logs"]["streamName"]
    assert build["Logs"]["GroupName"] == "/g"
    assert build["EndTime"] == int(described["endTime"].timestamp() * 1000)
    assert "BUILD" in [phase["PhaseType"] for phase in build["Phases"]]
    assert output(cloud, described) == ["hello"]


def test_a_failed_build_is_the_cause_of_the_error_and_can_be_caught(cloud: Cloud) -> None:
    name = project(cloud, spec("exit 9"))
    states = {
        **task(name, Catch=[{"ErrorEquals": ["States.TaskFailed"], "Next": "Caught",
                             "Output": "{% $parse($states.errorOutput.Cause) %}"}]),
        "Caught": {"Type": "Pass", "End": True},
    }  # fmt: skip
    found = cloud.ended(cloud.start(cloud.machine(states)))
    build = json.loads(found["output"])["Build"]
    assert build["BuildStatus"] == "FAILED"
    contexts = [context for phase in build["Phases"] for context in phase.get("Contexts", [])]
    assert any("exit status 9" in context["Message"] for context in contexts)


def test_a_task_without_sync_returns_the_build_that_it_started(cloud: Cloud) -> None:
    name = project(cloud, spec("sleep 600"))
    resource = SYNC.removesuffix(".sync")
    found = cloud.ended(cloud.start(cloud.machine(task(name, resource))))
    build = json.loads(found["output"])["Build"]
    assert build["BuildStatus"] == "IN_PROGRESS"
    cloud.client("codebuild").stop_build(id=build["Id"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"arguments": {"ProjectName": "none-such"}}, "CodeBuild.ResourceNotFoundException"),
        ({"arguments": {"PrivilegedModeOveride": True}}, "States.Runtime"),
        ({"arguments": {"imageOverride": "a"}}, "States.Runtime"),
        (
            {"arguments": {"ArtifactsOverride": {"Type": "S3"}}},
            "CodeBuild.InvalidInputException",
        ),
        ({"arguments": {"TimeoutInMinutesOverride": 4}}, "CodeBuild.InvalidInputException"),
        ({"resource": "arn:aws:states:::codebuild:startBuildBatch.sync"}, "States.Runtime"),
    ],
)
def test_a_build_that_cannot_be_started_fails_the_task(
    cloud: Cloud, changes: dict[str, Any], error: str
) -> None:
    name = project(cloud, spec("true"))
    found = cloud.ended(cloud.start(cloud.machine(task(name, **changes))))
    assert (found["status"], found["error"]) == ("FAILED", error)
    assert cloud.client("codebuild").list_builds_for_project(projectName=name)["ids"] == []


def test_more_builds_than_the_account_may_run_at_once_are_refused(cloud: Cloud) -> None:
    name = project(cloud, spec("sleep 600"))
    codebuild = cloud.client("codebuild")
    running = [
        build
        for build_id in codebuild.list_builds()["ids"]
        if not (build := describe(cloud, build_id))["buildComplete"]
    ]
    cloud.admin.set_knobs(max_builds=len(running) + 1)
    token = {"projectName": name, "idempotencyToken": "first"}
    started = codebuild.start_build(**token)["build"]["id"]
    # A repeated request finds its build, and counts once.
    assert codebuild.start_build(**token)["build"]["id"] == started
    with pytest.raises(ClientError, match="Cannot have more than"):
        codebuild.start_build(projectName=name)
    found = cloud.ended(cloud.start(cloud.machine(task(name))))
    assert (found["status"], found["error"]) == (
        "FAILED",
        "CodeBuild.AccountLimitExceededException",
    )
    codebuild.stop_build(id=started)
    again = codebuild.start_build(projectName=name)["build"]["id"]
    codebuild.stop_build(id=again)


def test_a_stopped_execution_stops_its_build(cloud: Cloud, tmp_path: Path) -> None:
    name = project(cloud, spec("sleep 600"))
    execution = cloud.start(cloud.machine(task(name)))
    build_id = only_build(cloud, name)
    cloud.client("stepfunctions").stop_execution(executionArn=execution)
    build = eventually(
        lambda: describe(cloud, build_id)["buildComplete"] and describe(cloud, build_id)
    )
    assert build["buildStatus"] == "STOPPED"
    assert cloud.ended(execution)["status"] == "ABORTED"


def test_a_task_that_times_out_stops_its_build(cloud: Cloud) -> None:
    name = project(cloud, spec("sleep 600"))
    execution = cloud.start(cloud.machine(task(name, TimeoutSeconds=3)))
    found = cloud.ended(execution)
    assert (found["status"], found["error"]) == ("FAILED", "States.Timeout")
    builds = cloud.client("codebuild")
    ids = eventually(lambda: builds.list_builds_for_project(projectName=name)["ids"])
    build = eventually(lambda: describe(cloud, ids[0])["buildComplete"] and describe(cloud, ids[0]))
    assert build["buildStatus"] == "STOPPED"


def test_a_build_that_someone_stops_fails_the_task(cloud: Cloud) -> None:
    name = project(cloud, spec("sleep 600"))
    execution = cloud.start(cloud.machine(task(name)))
    cloud.client("codebuild").stop_build(id=only_build(cloud, name))
    found = cloud.ended(execution)
    assert (found["status"], found["error"]) == ("FAILED", "States.TaskFailed")
    assert json.loads(found["cause"])["Build"]["BuildStatus"] == "STOPPED"


@pytest.mark.parametrize(
    "missing",
    [
        "",
        "codebuild:StartBuild",
        "codebuild:StopBuild",
        "codebuild:BatchGetBuilds",
        "events:PutTargets",
        "events:PutRule",
        "events:DescribeRule",
    ],
)
def test_waiting_for_a_build_takes_every_permission(strict_cloud: Cloud, missing: str) -> None:
    cloud = strict_cloud
    name = project(cloud, spec("true"), serviceRole=service_role(cloud, LOGS))
    arn = f"arn:aws:codebuild:us-east-1:000000000000:project/{name}"
    needed = {
        arn: ["codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds"],
        RULE: ["events:PutTargets", "events:PutRule", "events:DescribeRule"],
    }
    statements = [
        {"Effect": "Allow", "Action": [a for a in actions if a != missing], "Resource": resource}
        for resource, actions in needed.items()
    ]
    machine = cloud.machine(task(name), role=cloud.role(*statements))
    found = cloud.ended(cloud.start(machine))
    if not missing:
        assert found["status"] == "SUCCEEDED"
        return
    assert found["error"] == "CodeBuild.AccessDeniedException"
    assert missing in found["cause"]
    assert cloud.client("codebuild").list_builds_for_project(projectName=name)["ids"] == []
