"""A run through the real definition, for every kind of outcome."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.clouds import eventually
from tests.workflow.scripted import BUCKET, ScriptedWorkflow

pytestmark = pytest.mark.slow

Line = dict[str, Any]
Script = dict[str, list[Line]]
RESULT = {"run_id": "RUN", "status": "completed", "reason": "the trainer is done", "step": 90}
ONCE = ["LaunchInstances", "Launched?", "Train", "ConfirmCheckpoint", "DecideNext", "Decision"]


def launched(attempt: int) -> Line:
    answer = {"run_id": "RUN", "attempt": attempt, "launched": True, "heartbeat_seconds": 600}
    return {"answers": answer}


def refused(attempt: int) -> Line:
    outcome = {"kind": "no_capacity", "reason": "m5.large/us-east-1a/spot: none"}
    answer = {"run_id": "RUN", "attempt": attempt, "launched": False, "outcome": outcome}
    return {"answers": answer}


def reported(kind: str, **fields: Any) -> Line:
    return {"reports": {"outcome": {"kind": kind, "reason": f"it is {kind}", **fields}}}


def confirmed(attempt: int, kind: str) -> Line:
    outcome = {"kind": kind, "reason": f"it is {kind}"}
    answer = {"run_id": "RUN", "attempt": attempt, "outcome": outcome}
    return {"answers": {**answer, "step": 30, "checkpoint": "a-manifest"}}


def relaunch(attempt: int, *, wait: int = 0) -> Line:
    answer = {"run_id": "RUN", "decision": "relaunch", "attempt": attempt, "wait_seconds": wait}
    return {"answers": {**answer, "reason": "once more"}}


def over(decision: str, status: str, reason: str = "the trainer is done") -> Line:
    answer = {"run_id": "RUN", "decision": decision, "attempt": 1, "wait_seconds": 0}
    return {"answers": {**answer, "status": status, "reason": reason}}


def script(**parts: list[Line]) -> Script:
    """A run that completes in one attempt, except where `parts` replace something."""
    whole: Script = {
        "prepare_run": [{"answers": {"run_id": "RUN", "attempt": 1}}],
        "launch_instances": [launched(1)],
        "train": [reported("completed", exit_code=0, step=90)],
        "confirm_checkpoint": [confirmed(1, "completed")],
        "decide_next": [over("finish", "completed")],
        "finish_run": [{"answers": RESULT}],
        "clean_up": [{"answers": {"run_id": "RUN", "status": "cleaned"}}],
    }
    return {**whole, **parts}


def test_a_run_that_completes_returns_its_result(workflow: ScriptedWorkflow) -> None:
    walk = workflow.run(script(), {"script": "train.py", "args": ["--epochs", "3"]})
    run_id = walk.described["name"]
    assert walk.described["status"] == "SUCCEEDED"
    assert walk.output == {**RESULT, "run_id": run_id}
    assert walk.states == [
        "PrepareRun",
        "BuildNeeded?",
        *ONCE,
        "FinishRun",
        "Result",
        "RunFinished",
    ]
    (prepared,) = walk.payloads("prepare_run")
    assert prepared["input"] == {"script": "train.py", "args": ["--epochs", "3"]}
    assert prepared["execution"]["arn"] == walk.described["executionArn"]
    assert prepared["execution"]["name"] == run_id
    assert prepared["execution"]["start_time"]
    (started,) = walk.payloads("train")
    assert started.pop("token")
    execution_arn = walk.described["executionArn"]
    assert started == {"run_id": run_id, "attempt": 1, "execution_arn": execution_arn}
    reports = {"kind": "completed", "reason": "it is completed", "exit_code": 0, "step": 90}
    assert walk.payloads("confirm_checkpoint") == [
        {"run_id": run_id, "attempt": 1, "outcome": reports}
    ]
    assert walk.payloads("finish_run") == [
        {
            "run_id": run_id,
            "status": "completed",
            "reason": "the trainer is done",
            "execution_arn": execution_arn,
        }
    ]


def test_an_interrupted_run_is_relaunched_and_completes(workflow: ScriptedWorkflow) -> None:
    walk = workflow.run(
        script(
            launch_instances=[launched(1), launched(2)],
            train=[reported("interrupted", step=30), reported("completed", step=90)],
            confirm_checkpoint=[confirmed(1, "interrupted"), confirmed(2, "completed")],
            decide_next=[relaunch(2), over("finish", "completed")],
        )
    )
    assert walk.described["status"] == "SUCCEEDED"
    assert walk.states == [
        "PrepareRun",
        "BuildNeeded?",
        *ONCE,
        *ONCE,
        "FinishRun",
        "Result",
        "RunFinished",
    ]
    assert [payload["attempt"] for payload in walk.payloads("launch_instances")] == [1, 2]
    tokens = [payload["token"] for payload in walk.payloads("train")]
    assert len(set(tokens)) == 2


def test_an_attempt_that_goes_silent_is_lost_but_not_the_run(workflow: ScriptedWorkflow) -> None:
    execution = workflow.begin(
        script(
            launch_instances=[launched(1), launched(2)],
            train=[{"answers": None}, reported("completed", step=90)],
            confirm_checkpoint=[confirmed(1, "lost"), confirmed(2, "completed")],
            decide_next=[relaunch(2), over("finish", "completed")],
        )
    )
    eventually(lambda: _calls(workflow, execution, "train"))
    workflow.cloud.admin.set_knobs(heartbeat_scale=0.001)
    walk = workflow.walk_of(execution)
    assert walk.described["status"] == "SUCCEEDED"
    outcome = walk.payloads("confirm_checkpoint")[0]["outcome"]
    assert outcome == {"kind": "lost", "reason": "no heartbeat for 10 minutes"}


def _calls(workflow: ScriptedWorkflow, execution: str, function: str) -> bool:
    prefix = f"calls/{execution.rpartition(':')[2]}/"
    found = workflow.cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return any(entry["Key"].endswith(function) for entry in found.get("Contents", []))


def test_no_capacity_backs_off_and_tries_again(workflow: ScriptedWorkflow) -> None:
    walk = workflow.run(
        script(
            launch_instances=[refused(1), launched(2)],
            confirm_checkpoint=[confirmed(1, "no_capacity"), confirmed(2, "completed")],
            decide_next=[relaunch(2, wait=30), over("finish", "completed")],
        )
    )
    assert walk.described["status"] == "SUCCEEDED"
    before = ["LaunchInstances", "Launched?", "ConfirmCheckpoint", "DecideNext", "Decision"]
    end = ["FinishRun", "Result", "RunFinished"]
    assert walk.states == ["PrepareRun", "BuildNeeded?", *before, "Backoff", *ONCE, *end]
    message = walk.payloads("confirm_checkpoint")[0]["outcome"]
    assert message == {"kind": "no_capacity", "reason": "m5.large/us-east-1a/spot: none"}


def test_giving_up_fails_the_execution_with_the_reason(workflow: ScriptedWorkflow) -> None:
    reason = "max_attempts (3) reached"
    walk = workflow.run(
        script(
            train=[reported("failed", exit_code=1)],
            confirm_checkpoint=[confirmed(1, "failed")],
            decide_next=[over("give_up", "failed", reason)],
            finish_run=[{"answers": {**RESULT, "status": "failed", "reason": reason}}],
        )
    )
    assert walk.states[-3:] == ["FinishRun", "Result", "RunFailed"]
    ended = walk.described
    assert (ended["status"], ended["error"], ended["cause"]) == ("FAILED", "RunFailed", reason)


def test_giving_up_without_a_status_means_failed(workflow: ScriptedWorkflow) -> None:
    line = over("give_up", "failed", "no way on")
    del line["answers"]["status"]
    walk = workflow.run(script(decide_next=[line]))
    assert walk.payloads("finish_run")[0]["status"] == "failed"


@pytest.mark.parametrize("status", ["stopped", "interrupted"])
def test_a_run_that_was_stopped_or_not_resumed_does_not_fail(
    workflow: ScriptedWorkflow, status: str
) -> None:
    walk = workflow.run(
        script(
            train=[reported(status)],
            confirm_checkpoint=[confirmed(1, status)],
            decide_next=[over("finish", status)],
            finish_run=[{"answers": {**RESULT, "status": status}}],
        )
    )
    assert walk.described["status"] == "SUCCEEDED"
    assert walk.output["status"] == status


@pytest.mark.parametrize(
    "error", ["InvalidRequestError", "RequestError", "NotFoundError", "RunEndedError"]
)
def test_a_bad_request_is_rejected_with_only_the_message(
    workflow: ScriptedWorkflow, error: str
) -> None:
    message = "scrip: unknown field; did you mean script?"
    walk = workflow.run(script(prepare_run=[{"raises": error, "message": message}]))
    assert walk.states == ["PrepareRun", "RejectRequest"]
    ended = walk.described
    assert (ended["status"], ended["error"], ended["cause"]) == ("FAILED", error, message)
    assert walk.payloads("clean_up") == []


@pytest.mark.parametrize(
    ("function", "state"),
    [
        ("prepare_run", "PrepareRun"),
        ("launch_instances", "LaunchInstances"),
        ("train", "Train"),
        ("confirm_checkpoint", "ConfirmCheckpoint"),
        ("decide_next", "DecideNext"),
        ("finish_run", "FinishRun"),
    ],
)
def test_an_unexpected_error_is_cleaned_up_and_reported(
    workflow: ScriptedWorkflow, function: str, state: str
) -> None:
    walk = workflow.run(script(**{function: [{"raises": "KeyError", "message": "'zone'"}]}))
    assert walk.states[-3:] == [state, "CleanUp", "Unexpected"]
    ended = walk.described
    assert (ended["status"], ended["error"]) == ("FAILED", "KeyError")
    assert "zone" in ended["cause"]
    (cleaned,) = walk.payloads("clean_up")
    assert cleaned["execution_arn"] == ended["executionArn"]
    assert (cleaned["name"], cleaned["status"]) == (ended["name"], "FAILED")
    assert cleaned["cause"].startswith("KeyError: ")


@pytest.mark.parametrize(
    ("error", "states"),
    [("RequestError", ["PrepareRun", "RejectRequest"]), ("KeyError", ["CleanUp", "Unexpected"])],
)
def test_cause_longer_than_the_limit_keeps_its_end(
    workflow: ScriptedWorkflow, error: str, states: list[str]
) -> None:
    message = "é" * 40_000 + " the end"
    walk = workflow.run(script(prepare_run=[{"raises": error, "message": message}]))
    assert walk.states[-2:] == states
    assert len(walk.described["cause"]) == 32_000
    assert walk.described["cause"].startswith("…")
    assert walk.described["cause"].endswith(" the end")


def test_a_clean_up_that_fails_does_not_hide_the_cause(workflow: ScriptedWorkflow) -> None:
    walk = workflow.run(
        script(
            decide_next=[{"raises": "KeyError", "message": "'zone'"}],
            clean_up=[{"raises": "RefusedError", "message": "no permission"}],
        )
    )
    assert walk.states[-2:] == ["CleanUp", "Unexpected"]
    assert walk.described["error"] == "KeyError"


def test_a_transient_error_is_retried(workflow: ScriptedWorkflow) -> None:
    busy = {"raises": "TransientError", "message": "EC2 is throttling"}
    walk = workflow.run(script(launch_instances=[busy, busy, launched(1)]))
    assert walk.described["status"] == "SUCCEEDED"
    assert len(walk.payloads("launch_instances")) == 3


def test_a_launch_survives_a_lasting_fault_of_ec2(workflow: ScriptedWorkflow) -> None:
    fault = {"raises": "TransientError", "message": "AWS asks to retry later: InternalError"}
    walk = workflow.run(script(launch_instances=[*[fault] * 9, launched(1)]))
    assert walk.described["status"] == "SUCCEEDED"
    assert len(walk.payloads("launch_instances")) == 10


def test_an_execution_that_is_stopped_while_it_waits_for_capacity_ends_at_once(
    workflow: ScriptedWorkflow,
) -> None:
    execution = workflow.begin(
        script(
            launch_instances=[refused(1)],
            confirm_checkpoint=[confirmed(1, "no_capacity")],
            decide_next=[relaunch(2, wait=60_000)],
        )
    )
    eventually(lambda: _calls(workflow, execution, "decide_next"))
    workflow.cloud.client("stepfunctions").stop_execution(executionArn=execution)
    walk = workflow.walk_of(execution)
    assert walk.described["status"] == "ABORTED"
    assert len(walk.payloads("launch_instances")) == 1


def test_an_execution_whose_run_has_ended_stops_and_explains_how_to_resume(
    workflow: ScriptedWorkflow,
) -> None:
    message = "the run RUN has ended: stopped; to go on with it, use `runctl resume RUN`"
    line = {"raises": "RunEndedError", "message": message}
    for function, state in (("launch_instances", "LaunchInstances"), ("train", "Train")):
        walk = workflow.run(script(**{function: [line]}))  # like one that was redriven
        assert walk.states[-3:] == [state, "CleanUp", "Unexpected"]
        assert (walk.described["status"], walk.described["error"]) == ("FAILED", "RunEndedError")
        assert walk.described["cause"] == message.replace("RUN", walk.described["name"])


def test_a_stopped_execution_waits_for_nothing(workflow: ScriptedWorkflow) -> None:
    execution = workflow.begin(script(train=[{"answers": None}]))
    eventually(lambda: _calls(workflow, execution, "train"))
    workflow.cloud.client("stepfunctions").stop_execution(executionArn=execution)
    walk = workflow.walk_of(execution)
    assert walk.described["status"] == "ABORTED"
    assert walk.states[-1] == "Train"
