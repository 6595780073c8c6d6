"""A run that outlasts its execution's history, on the real state machine."""

import pytest

from runctl.model.outcome import RunStatus
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e

FUNCTION = "runctl-decide_next"


@pytest.fixture
def two_turns(testbed: Testbed):
    """Limit an execution to two turns instead of some four hundred."""
    client = testbed.clients.get("lambda")
    held = client.get_function_configuration(FunctionName=FUNCTION)["Environment"]["Variables"]
    client.update_function_configuration(
        FunctionName=FUNCTION, Environment={"Variables": {**held, "RUNCTL_MAX_TURNS": "2"}}
    )
    yield
    client.update_function_configuration(FunctionName=FUNCTION, Environment={"Variables": held})


def start(testbed: Testbed, run_id: str, *, steps: int) -> None:
    program = PROJECT / "examples/training/train_with_checkpoints.py"
    code = testbed.upload_project({"train.py": program})
    arguments = ["--steps", str(steps), "--every", "2", "--step-seconds", "0.05"]
    testbed.start({"code": code, "script": "train.py", "args": arguments}, name=run_id)


def test_run_continues_in_other_executions_and_the_first_one_returns_the_result(
    testbed: Testbed, new_name, two_turns
):
    run_id = new_name()
    testbed.cloud.set_capacity("*", 0)
    start(testbed, run_id, steps=40)
    wait_for(lambda: len(testbed.attempts(run_id)) >= 4, "two turns and two more")
    testbed.cloud.reset()
    number = testbed.attempts(run_id)[-1].number
    wait_for(lambda: testbed.attempts(run_id)[-1].was_launched, "a launch")
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    run = testbed.run(run_id)
    assert run.ended is RunStatus.COMPLETED
    assert run.executions >= 2 + (number - 4) // 2
    assert run.ancestors[0] == ended.arn
    assert ended.output is not None
    assert ended.output["run_id"] == run_id
    assert ended.output["status"] == "completed"
    last = testbed.execution(run.execution)
    assert last.output == ended.output
    testbed.wait_for_no_instance(run_id)


def test_stopping_the_first_execution_ends_the_run_in_the_nested_one(
    testbed: Testbed, new_name, two_turns
):
    run_id = new_name()
    testbed.cloud.set_capacity("*", 0)
    start(testbed, run_id, steps=100_000)
    wait_for(lambda: len(testbed.attempts(run_id)) >= 3, "a second execution")
    testbed.cloud.reset()
    wait_for(lambda: testbed.run(run_id).newest, "a first checkpoint")
    first = testbed.workflow.execution_arn(run_id)
    testbed.workflow.stop_run(first, cause="enough")
    run = wait_for(lambda: (found := testbed.run(run_id)).ended and found, "the run to end")
    assert run.ended is RunStatus.STOPPED
    assert run.execution_arn != first
    assert not testbed.execution(run.execution).is_running
    testbed.wait_for_no_instance(run_id)
    testbed.verify_checkpoint_exists(run_id)
