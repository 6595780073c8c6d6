"""A processing job on several instances: its batches are runs, and the ledger has the result."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workflow.scripted import ScriptedWorkflow, Walk

# Stands for the state machine of runs: it returns its input, and fails in a batch of its choice.
RUNS = {
    "QueryLanguage": "JSONata",
    "StartAt": "Choose",
    "States": {
        "Choose": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $states.input.process.first_shard = 6 %}",
                    "Next": "Broken",
                }
            ],
            "Default": "Done",
        },
        "Broken": {"Type": "Fail", "Error": "RunFailed", "Cause": "shard 7 failed 4 times"},
        "Done": {"Type": "Succeed"},
    },
}
REQUEST = {"kind": "process", "script": "s3://bucket/clean.py", "process": {"workers": 2}}


@pytest.fixture(scope="module")
def jobs(shared_workflow: ScriptedWorkflow) -> ScriptedWorkflow:
    cloud = shared_workflow.cloud
    made = cloud.client("stepfunctions").create_state_machine(
        name="runs-of-jobs", definition=json.dumps(RUNS), roleArn=cloud.role()
    )
    machine = {"run_machine": made["stateMachineArn"]}
    return ScriptedWorkflow(cloud, "process", machine)


def script(first: int = 0, status: str = "completed", **parts: Any) -> dict[str, Any]:
    batches = [
        {
            "run_id": f"RUN-{at}",
            "first": first + 2 * at,
            "count": 2,
            "execution": f"RUN-{at}",
            "continues": False,
        }
        for at in range(3)
    ]
    planned = {"group_id": "RUN", "instances": 2, "batches": batches, "request": REQUEST}
    result = {"group_id": "RUN", "status": status, "reason": "as the ledger says"}
    return {
        "plan_shards": [{"answers": planned}],
        "finish_processing": [{"answers": result}],
        "clean_up": [{"answers": {"run_id": "RUN", "status": "cleaned"}}],
        **parts,
    }


def runs_of(workflow: ScriptedWorkflow, walk: Walk) -> list[dict[str, Any]]:
    """Return the inputs of the runs of a job, in the order of their names."""
    client = workflow.cloud.client("stepfunctions")
    machines = client.list_state_machines()["stateMachines"]
    (arn,) = [found["stateMachineArn"] for found in machines if found["name"] == "runs-of-jobs"]
    found = client.list_executions(stateMachineArn=arn)["executions"]
    mine = sorted(
        (each["name"], each["executionArn"])
        for each in found
        if each["name"].startswith(f"{walk.described['name']}-")
    )
    return [json.loads(client.describe_execution(executionArn=arn)["input"]) for _, arn in mine]


def test_each_batch_is_a_run_of_its_shards(jobs: ScriptedWorkflow) -> None:
    walk = jobs.run(script(), REQUEST)
    assert walk.described["status"] == "SUCCEEDED"
    assert walk.output["status"] == "completed"
    assert [state for state in walk.states if state != "RunBatch"] == [
        "PlanShards",
        "Batches",
        "FinishProcessing",
        "Result",
        "JobFinished",
    ]
    inputs = runs_of(jobs, walk)
    parents = [given.pop("AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID") for given in inputs]
    assert all("/Batches:" in parent for parent in parents)  # a child of the map
    assert inputs == [
        {**REQUEST, "process": {"workers": 2, "first_shard": first, "shard_count": 2}}
        for first in (0, 2, 4)
    ]
    (finished,) = walk.payloads("finish_processing")
    assert finished["cause"] == ""
    assert finished["group_id"] == walk.described["name"]


def test_a_run_that_has_ended_is_continued_in_its_next_execution(jobs: ScriptedWorkflow) -> None:
    batch = {"run_id": "RUN-1", "first": 2, "count": 2, "execution": "RUN-1-r2", "continues": True}
    planned = {"group_id": "RUN", "instances": 2, "batches": [batch], "request": REQUEST}
    walk = jobs.run(script(plan_shards=[{"answers": planned}]), {"group_id": "RUN"})
    assert walk.described["status"] == "SUCCEEDED"
    (given,) = runs_of(jobs, walk)
    assert "/Batches:" in given.pop("AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID")
    assert given == {"run_id": f"{walk.described['name']}-1"}


def test_a_job_without_anything_left_is_finished(jobs: ScriptedWorkflow) -> None:
    planned = {"group_id": "RUN", "instances": 2, "batches": [], "request": REQUEST}
    walk = jobs.run(script(plan_shards=[{"answers": planned}]), {"group_id": "RUN"})
    assert walk.described["status"] == "SUCCEEDED"
    assert runs_of(jobs, walk) == []
    assert len(walk.payloads("finish_processing")) == 1


def test_a_batch_that_fails_ends_the_job_with_the_reason_of_the_ledger(
    jobs: ScriptedWorkflow,
) -> None:
    walk = jobs.run(script(first=6, status="failed"), REQUEST)
    assert walk.described["status"] == "FAILED"
    assert (walk.described["error"], walk.described["cause"]) == (
        "JobFailed",
        "as the ledger says",
    )
    (finished,) = walk.payloads("finish_processing")
    assert finished["cause"]
    assert walk.payloads("clean_up") == []


def test_an_invalid_request_starts_nothing(jobs: ScriptedWorkflow) -> None:
    line = {"raises": "InvalidRequestError", "message": "process.input: s3://b/x/ is empty"}
    walk = jobs.run(script(plan_shards=[line]), REQUEST)
    assert walk.described["status"] == "FAILED"
    assert walk.described["cause"] == "process.input: s3://b/x/ is empty"
    assert walk.states == ["PlanShards", "RejectRequest"]
    assert runs_of(jobs, walk) == []


def test_an_unexpected_error_of_the_last_function_is_cleaned_up(jobs: ScriptedWorkflow) -> None:
    line = {"raises": "KeyError", "message": "boom"}
    walk = jobs.run(script(finish_processing=[line]), REQUEST)
    assert walk.described["status"] == "FAILED"
    assert walk.states[-2:] == ["CleanUp", "Unexpected"]
    (cleaned,) = walk.payloads("clean_up")
    assert "boom" in cleaned["cause"]
    assert cleaned["status"] == "FAILED"
