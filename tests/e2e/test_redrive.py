"""Redrives in the console, of runs that were stopped, that failed, or that were resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runctl.aws.workflow import Execution
from runctl.model.outcome import RunStatus
from runctl.model.run import Run
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

# Counts steps until it is asked to stop; never ends by itself.
COUNTER = """
import os, pathlib, signal, time
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
step = max([int(p.stem.split("-")[1]) for p in folder.glob("step-*.txt")], default=0)
print("began at", step, flush=True)
while not stop:
    time.sleep(0.05)
    step += 1
    (folder / f"step-{step}.tmp").write_text(str(step))
    (folder / f"step-{step}.tmp").rename(folder / f"step-{step}.txt")
"""


def train(testbed: Testbed, run_id: str) -> None:
    """Start a run and let it save something."""
    code = testbed.upload_project({"count.py": COUNTER})
    testbed.start({"script": "count.py", "code": code}, name=run_id)
    testbed.wait_for_training(run_id, step=3)


def start_and_stop(testbed: Testbed, run_id: str) -> Run:
    """Let a run train, stop its execution, and return the run once everything has ended."""
    train(testbed, run_id)
    return stop(testbed, run_id, execution=run_id)


def stop(testbed: Testbed, run_id: str, *, execution: str) -> Run:
    testbed.workflow.stop_run(testbed.workflow.execution_arn(execution), cause="enough for today")
    return over(testbed, run_id)


def over(testbed: Testbed, run_id: str) -> Run:
    """Return the run once its end was announced and its agent has saved and left."""
    wait_for(lambda: testbed.run(run_id).is_settled, "the run's end")
    testbed.wait_for_no_instance(run_id)
    return testbed.run(run_id)


def redrive(testbed: Testbed, execution: str) -> Execution:
    """Do what the console's button does, and wait for the execution's end."""
    press_redrive(testbed, execution)
    return testbed.wait_for_end(execution)


def press_redrive(testbed: Testbed, execution: str) -> None:
    arn = testbed.workflow.execution_arn(execution)
    testbed.clients.get("stepfunctions").redrive_execution(executionArn=arn)


def states_since_the_redrive(testbed: Testbed, execution: str) -> list[str]:
    """Return the states that the execution entered, in order."""
    arn = testbed.workflow.execution_arn(execution)
    pages = testbed.clients.get("stepfunctions").get_paginator("get_execution_history")
    events = [event for page in pages.paginate(executionArn=arn) for event in page["events"]]
    began = max(n for n, event in enumerate(events) if event["type"] == "ExecutionRedriven")
    entered = (event.get("stateEnteredEventDetails") for event in events[began:])
    return [details["name"] for details in entered if details]


def test_a_redrive_does_not_revive_a_stopped_run_and_names_the_alternative(
    testbed: Testbed, new_name
):
    run_id = new_name()
    run = start_and_stop(testbed, run_id)
    assert run.ended is RunStatus.STOPPED
    attempts = testbed.attempts(run_id)
    ended = redrive(testbed, run_id)
    assert (ended.status, ended.error) == ("FAILED", "RunEndedError"), testbed.story(run_id)
    assert f"`runctl resume {run_id}`" in ended.cause
    assert states_since_the_redrive(testbed, run_id) == ["Train", "CleanUp", "Unexpected"]
    assert (testbed.run(run_id), testbed.attempts(run_id)) == (run, attempts)
    assert len(testbed.instances(run_id)) == 1
    assert testbed.live_instances(run_id) == []
    assert sum(line.startswith("began at") for line in testbed.log(run_id, 1)) == 1


def test_a_redriven_failed_run_fails_again_at_once(testbed: Testbed, new_name):
    code = testbed.upload_project({"broken.py": "raise SystemExit('the data is gone')"})
    run_id = new_name()
    testbed.start({"code": code, "script": "broken.py"}, name=run_id)
    failed = testbed.wait_for_training_completion(run_id)
    run = over(testbed, run_id)
    ended = redrive(testbed, run_id)
    assert (ended.status, ended.error, ended.cause) == ("FAILED", "RunFailed", failed.cause)
    assert "the data is gone" in ended.cause
    assert states_since_the_redrive(testbed, run_id) == ["RunFailed"]
    assert testbed.run(run_id) == run
    assert len(testbed.instances(run_id)) == len(testbed.attempts(run_id)) == 1


def test_a_redrive_of_the_first_execution_leaves_a_resumed_run_alone(testbed: Testbed, new_name):
    run_id = new_name()
    saved = start_and_stop(testbed, run_id).step
    done = subprocess.run(
        [str(Path(sys.executable).parent / "runctl"), "--local", "resume", run_id, "--detach"],
        env={**os.environ, "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    wait_for(lambda: testbed.run(run_id).step > saved, "the resumed run to save")
    before = [testbed.ledger.find_token(run_id, number) for number in (1, 2)]

    ended = redrive(testbed, run_id)
    assert (ended.status, ended.error) == ("FAILED", "RunEndedError"), testbed.story(run_id)
    run, attempts = testbed.run(run_id), testbed.attempts(run_id)
    assert run.ended is None
    assert run.execution in ended.cause
    assert [testbed.ledger.find_token(run_id, number) for number in (1, 2)] == before
    assert len(attempts) == len(testbed.instances(run_id)) == 2
    wait_for(lambda: testbed.run(run_id).step > run.step, "the resumed run to go on")
    stopped = stop(testbed, run_id, execution=run.execution)
    assert stopped.ended is RunStatus.STOPPED
    assert testbed.attempts(run_id)[1].resume_step == saved
    assert testbed.log(run_id, 2)[0] == f"began at {saved}"
    testbed.verify_checkpoint_exists(run_id)


@pytest.fixture
def unheard(testbed: Testbed):
    """Suppress the events of executions that end, which Step Functions does not guarantee."""
    events = testbed.clients.get("events")
    rules = events.list_rules()["Rules"]
    (rule,) = (found["Name"] for found in rules if "aws.states" in found.get("EventPattern", ""))
    events.disable_rule(Name=rule)
    yield
    events.enable_rule(Name=rule)


def test_a_redrive_that_overtakes_the_stop_event_continues_the_same_training(
    testbed: Testbed, new_name, unheard
):
    run_id = new_name()
    train(testbed, run_id)
    arn = testbed.workflow.execution_arn(run_id)
    token = testbed.ledger.find_token(run_id, 1)
    testbed.workflow.stop_run(arn, cause="by mistake")
    press_redrive(testbed, run_id)
    wait_for(lambda: testbed.ledger.find_token(run_id, 1) != token, "a new token")
    step = testbed.run(run_id).step
    wait_for(lambda: testbed.run(run_id).step > step, "the training to go on")
    assert testbed.execution(run_id).is_running

    # At last, the event arrives.
    detail = {"executionArn": arn, "name": run_id, "status": "ABORTED", "cause": "by mistake"}
    testbed.clients.get("lambda").invoke(
        FunctionName="runctl-clean_up", Payload=json.dumps({"detail": detail})
    )
    ended = testbed.wait_for_end(run_id)
    assert ended.output is not None, testbed.story(run_id)
    assert ended.output["status"] == "stopped"
    run = over(testbed, run_id)
    assert (run.ended, run.step) == (RunStatus.STOPPED, ended.output["step"])
    assert len(testbed.attempts(run_id)) == len(testbed.instances(run_id)) == 1
    assert testbed.log(run_id, 1) == ["began at 0"]
