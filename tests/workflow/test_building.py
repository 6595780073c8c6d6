"""A run whose image is built first: the build ends in every way, and RecordImage decides."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.builds import output, project, spec
from tests.local.clouds import Cloud, eventually
from tests.workflow.scripted import ScriptedWorkflow, Walk
from tests.workflow.test_train import ONCE, RESULT, Line, script

pytestmark = pytest.mark.slow

BUILT = ["PrepareRun", "BuildNeeded?", "BuildImage", "RecordImage", "ImageRecorded?"]
LOG_GROUP = "/runctl/runs"
RECORDED: Line = {"answers": {"run_id": "RUN", "recorded": True}}


def prepared(project_name: str) -> Line:
    """PrepareRun orders a build."""
    build = {
        "tag": "t-1",
        "project": project_name,
        "variables": [{"Name": "WORD", "Value": "built", "Type": "PLAINTEXT"}],
        "log_group": LOG_GROUP,
        "log_stream": "RUN/build",
    }
    return {"answers": {"run_id": "RUN", "attempt": 1, "build": build}}


def unbuilt(reason: str) -> Line:
    answer = {"run_id": "RUN", "recorded": False, "status": "failed", "reason": reason}
    return {"answers": answer}


def failed(reason: str) -> Line:
    return {"answers": {**RESULT, "status": "failed", "reason": reason}}


def question(walk: Walk) -> Any:
    """Return the only thing that RecordImage was asked."""
    (asked,) = walk.payloads("record_image")
    assert (asked["run_id"], asked["tag"]) == (walk.described["name"], "t-1")
    return asked


@pytest.fixture
def cloud(workflow: ScriptedWorkflow) -> Cloud:
    return workflow.cloud


def test_an_image_is_built_and_recorded_before_the_first_launch(
    workflow: ScriptedWorkflow, cloud: Cloud
) -> None:
    name = project(cloud, spec('echo "$WORD"'))
    walk = workflow.run(script(prepare_run=[prepared(name)], record_image=[RECORDED]))
    assert walk.described["status"] == "SUCCEEDED"
    assert walk.states == [*BUILT, *ONCE, "FinishRun", "Result", "RunFinished"]
    asked = question(walk)
    assert asked["cause"] == ""
    (build,) = cloud.client("codebuild").batch_get_builds(ids=[asked["build_id"]])["builds"]
    assert build["buildStatus"] == "SUCCEEDED"
    where = build["logs"]
    assert (where["groupName"], where["streamName"]) == (
        LOG_GROUP,
        f"{walk.described['name']}/build/{asked['build_id'].rpartition(':')[2]}",
    )
    assert output(cloud, build) == ["built"]


def test_a_failed_build_is_described_to_record_image_which_ends_the_run(
    workflow: ScriptedWorkflow, cloud: Cloud
) -> None:
    name = project(cloud, spec("exit 9"))
    reason = "the build of the image ended as failed: exit 9"
    walk = workflow.run(
        script(
            prepare_run=[prepared(name)],
            record_image=[unbuilt(reason)],
            finish_run=[failed(reason)],
        )
    )
    assert walk.states == [*BUILT, "FinishRun", "Result", "RunFailed"]
    asked = question(walk)
    assert asked["build_id"] == ""
    # RecordImage finds the build by it.
    assert asked["cause"].startswith("States.TaskFailed: ")
    assert f'"Id":"{name}:' in asked["cause"].replace(" ", "")
    (ended,) = walk.payloads("finish_run")
    assert (ended["status"], ended["reason"]) == ("failed", reason)
    assert (walk.described["error"], walk.described["cause"]) == ("RunFailed", reason)
    assert walk.payloads("launch_instances") == []


def test_an_image_that_another_build_has_pushed_is_used_although_this_build_failed(
    workflow: ScriptedWorkflow, cloud: Cloud
) -> None:
    name = project(cloud, spec("exit 9"))
    walk = workflow.run(script(prepare_run=[prepared(name)], record_image=[RECORDED]))
    assert walk.described["status"] == "SUCCEEDED"
    assert walk.states == [*BUILT, *ONCE, "FinishRun", "Result", "RunFinished"]


def test_a_build_that_the_account_has_no_room_for_is_tried_again_and_then_reported(
    workflow: ScriptedWorkflow, cloud: Cloud
) -> None:
    name = project(cloud, spec("true"))
    cloud.admin.set_knobs(max_builds=0, wait_scale=0.0)
    reason = "the image could not be built: CodeBuild.AccountLimitExceededException"
    walk = workflow.run(
        script(
            prepare_run=[prepared(name)],
            record_image=[unbuilt(reason)],
            finish_run=[failed(reason)],
        )
    )
    assert walk.states == [*BUILT, "FinishRun", "Result", "RunFailed"]
    asked = question(walk)
    limit = "Cannot have more than 0 builds in queue for the account"
    assert asked["cause"] == f"CodeBuild.AccountLimitExceededException: {limit}"
    assert cloud.client("codebuild").list_builds_for_project(projectName=name)["ids"] == []


def test_a_build_waits_until_the_account_has_room_for_it(
    workflow: ScriptedWorkflow, cloud: Cloud
) -> None:
    name = project(cloud, spec("true"))
    cloud.admin.set_knobs(max_builds=0, wait_scale=0.1)
    execution = workflow.begin(script(prepare_run=[prepared(name)], record_image=[RECORDED]))
    history = cloud.client("stepfunctions").get_execution_history

    def failures() -> list[Any]:
        events = history(executionArn=execution)["events"]
        return [event for event in events if event["type"] == "TaskFailed"]

    eventually(failures)
    cloud.admin.set_knobs(max_builds=60)
    walk = workflow.walk_of(execution)
    assert walk.described["status"] == "SUCCEEDED"
    assert question(walk)["cause"] == ""


def test_a_project_that_is_missing_is_reported_at_once(workflow: ScriptedWorkflow) -> None:
    reason = "the image could not be built"
    walk = workflow.run(
        script(
            prepare_run=[prepared("none-such")],
            record_image=[unbuilt(reason)],
            finish_run=[failed(reason)],
        )
    )
    assert walk.states == [*BUILT, "FinishRun", "Result", "RunFailed"]
    assert question(walk)["cause"].startswith("CodeBuild.ResourceNotFoundException: ")


def test_an_unexpected_error_of_record_image_is_cleaned_up(
    workflow: ScriptedWorkflow, cloud: Cloud
) -> None:
    name = project(cloud, spec("true"))
    line = {"raises": "KeyError", "message": "'digest'"}
    walk = workflow.run(script(prepare_run=[prepared(name)], record_image=[line]))
    assert walk.states[-3:] == ["RecordImage", "CleanUp", "Unexpected"]
    assert walk.described["error"] == "KeyError"
    (cleaned,) = walk.payloads("clean_up")
    assert cleaned["cause"].startswith("KeyError: ")


def test_a_stopped_execution_stops_its_build_and_launches_nothing(
    workflow: ScriptedWorkflow, cloud: Cloud
) -> None:
    name = project(cloud, spec("sleep 600"))
    execution = workflow.begin(script(prepare_run=[prepared(name)], record_image=[RECORDED]))
    codebuild = cloud.client("codebuild")
    (build_id,) = eventually(lambda: codebuild.list_builds_for_project(projectName=name)["ids"])
    cloud.client("stepfunctions").stop_execution(executionArn=execution)
    walk = workflow.walk_of(execution)
    assert walk.states == BUILT[:3]
    assert walk.described["status"] == "ABORTED"
    eventually(lambda: codebuild.batch_get_builds(ids=[build_id])["builds"][0]["buildComplete"])
