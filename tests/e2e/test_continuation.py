"""A run that outlives its execution's history, on the real state machine."""

import pytest

from runctl.model.outcome import RunStatus
from tests.e2e.testbed import PROJECT, Stage, wait_for

pytestmark = pytest.mark.e2e

FUNCTION = "runctl-decide_next"


@pytest.fixture
def two_turns(stage: Stage):
    """Let an execution have two turns instead of some four hundred."""
    client = stage.clients.get("lambda")
    held = client.get_function_configuration(FunctionName=FUNCTION)["Environment"]["Variables"]
    client.update_function_configuration(
        FunctionName=FUNCTION, Environment={"Variables": {**held, "RUNCTL_MOST_TURNS": "2"}}
    )
    yield
    client.update_function_configuration(FunctionName=FUNCTION, Environment={"Variables": held})


def start(stage: Stage, run_id: str, *, steps: int) -> None:
    program = PROJECT / "examples/training/train_with_checkpoints.py"
    code = stage.upload_project({"train.py": program})
    arguments = ["--steps", str(steps), "--every", "2", "--step-seconds", "0.05"]
    stage.start({"code": code, "script": "train.py", "args": arguments}, name=run_id)


def test_run_goes_on_in_other_executions_and_its_first_one_tells_the_end(
    stage: Stage, new_name, two_turns
):
    run_id = new_name()
    stage.cloud.set_capacity("*", 0)
    start(stage, run_id, steps=40)
    wait_for(lambda: len(stage.attempts(run_id)) >= 4, "two turns and two more")
    stage.cloud.reset()
    number = stage.attempts(run_id)[-1].number
    wait_for(lambda: stage.attempts(run_id)[-1].was_launched, "a launch")
    ended = stage.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", stage.story(run_id)
    run = stage.run(run_id)
    assert run.ended is RunStatus.COMPLETED
    assert run.executions >= 2 + (number - 4) // 2
    assert run.ancestors[0] == ended.arn
    assert ended.output is not None
    assert ended.output["run_id"] == run_id
    assert ended.output["status"] == "completed"
    last = stage.execution(run.execution)
    assert last.output == ended.output
    stage.wait_for_no_instance(run_id)


def test_stop_of_the_first_execution_ends_the_run_in_the_one_it_waits_for(
    stage: Stage, new_name, two_turns
):
    run_id = new_name()
    stage.cloud.set_capacity("*", 0)
    start(stage, run_id, steps=100_000)
    wait_for(lambda: len(stage.attempts(run_id)) >= 3, "a second execution")
    stage.cloud.reset()
    wait_for(lambda: stage.run(run_id).newest, "a first checkpoint")
    first = stage.workflow.execution_arn(run_id)
    stage.workflow.stop_run(first, cause="enough")
    run = wait_for(lambda: (found := stage.run(run_id)).ended and found, "the run to end")
    assert run.ended is RunStatus.STOPPED
    assert run.execution_arn != first
    assert not stage.execution(run.execution).is_running
    stage.wait_for_no_instance(run_id)
    stage.verify_checkpoint_exists(run_id)
