"""Starting, stopping and refusing runs, as a person with the plain AWS CLI does."""

import json

import pytest

from runctl.model.outcome import RunStatus
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

SLEEPER = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
step = max([int(p.stem.split("-")[1]) for p in folder.glob("step-*.txt")], default=0)
while step < int(os.environ.get("STEPS", "1000")) and not stop:
    time.sleep(0.05)
    step += 1
    (folder / f"step-{step}.tmp").write_text(str(step))
    (folder / f"step-{step}.tmp").rename(folder / f"step-{step}.txt")
print("left at", step, flush=True)
"""


@pytest.fixture(scope="module")
def script(testbed: Testbed) -> str:
    """A script in the bucket, copied as a person would."""
    uri = f"s3://{testbed.deployment.bucket}/code/sleeper.py"
    bucket, key = testbed.deployment.bucket, "code/sleeper.py"
    testbed.clients.get("s3").put_object(Bucket=bucket, Key=key, Body=SLEEPER.encode())
    return uri


def start_with_the_aws_cli(testbed: Testbed, name: str, request: object) -> str:
    done = testbed.aws(
        "stepfunctions",
        "start-execution",
        "--state-machine-arn",
        testbed.deployment.state_machine_arn,
        "--name",
        name,
        "--input",
        json.dumps(request),
    )
    assert done.returncode == 0, done.stderr
    arn: str = json.loads(done.stdout)["executionArn"]
    return arn


def test_an_execution_with_only_a_script_is_a_run(testbed: Testbed, script: str, new_name):
    run_id = new_name()
    start_with_the_aws_cli(testbed, run_id, {"script": script, "env": {"STEPS": "5"}})
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert "left at 5" in testbed.log(run_id, 1)
    testbed.wait_for_no_instance(run_id)


def test_after_stop_execution_the_work_is_saved_and_no_instance_is_left(
    testbed: Testbed, script: str, new_name
):
    run_id = new_name()
    arn = start_with_the_aws_cli(testbed, run_id, {"script": script})
    testbed.wait_for_training(run_id, step=3)
    done = testbed.aws("stepfunctions", "stop-execution", "--execution-arn", arn)
    assert done.returncode == 0, done.stderr
    testbed.wait_for_no_instance(run_id)
    run = wait_for(lambda: (found := testbed.run(run_id)).ended and found, "the run to end")
    assert run.ended is RunStatus.STOPPED
    testbed.verify_checkpoint_exists(run_id)
    left = [line for line in testbed.log(run_id, 1) if line.startswith("left at")]
    assert left == [f"left at {run.step}"], testbed.story(run_id)


def test_a_run_that_is_stopped_while_it_waits_for_capacity_launches_nothing(
    testbed: Testbed, script: str, new_name
):
    testbed.cloud.set_capacity("*", 0)
    run_id = new_name()
    arn = start_with_the_aws_cli(testbed, run_id, {"script": script})
    wait_for(lambda: testbed.attempts(run_id), "a first attempt")
    testbed.aws("stepfunctions", "stop-execution", "--execution-arn", arn)
    wait_for(lambda: testbed.run(run_id).ended, "the run to end")
    testbed.cloud.reset()
    assert testbed.instances(run_id) == []


def test_a_run_waits_for_capacity_and_continues_when_it_is_available(
    testbed: Testbed, script: str, new_name
):
    testbed.cloud.set_capacity("*", 0)
    run_id = new_name()
    testbed.start({"script": script, "env": {"STEPS": "3"}}, name=run_id)
    wait_for(lambda: len(testbed.attempts(run_id)) >= 2, "a second try")
    testbed.cloud.reset()
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert testbed.attempts(run_id)[0].ended.kind.value == "no_capacity"


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"scirpt": "s3://b/x.py"}, ["scirpt", "script"]),
        ({"script": 7, "max_attempts": "many"}, ["script", "max_attempts"]),
        ({"script": "s3://{bucket}/code/nowhere.py"}, ["script", "does not exist"]),
        ({"script": "../escape.py", "code": "s3://{bucket}/code/x.tar.gz"}, ["script", "project"]),
        ({"script": "s3://{bucket}/code/sleeper.py", "env": {"BIG": "x" * 200_000}}, ["env"]),
    ],
    ids=[
        "unknown field",
        "wrong types",
        "missing script",
        "script outside",
        "large env",
    ],
)
def test_a_bad_request_fails_at_once_and_launches_nothing(
    testbed: Testbed, script: str, new_name, request_: dict, named: list
):
    run_id = new_name()
    text = json.dumps(request_).replace("{bucket}", testbed.deployment.bucket)
    testbed.start(json.loads(text), name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED"
    assert ended.error == "InvalidRequestError"
    assert all(word in ended.cause for word in named), ended.cause
    assert "Traceback" not in ended.cause
    assert testbed.ledger.find_run(run_id) is None
    assert testbed.instances(run_id) == []


def test_a_failing_trainer_fails_the_run_with_its_reason(testbed: Testbed, new_name):
    code = testbed.upload_project({"broken.py": "raise SystemExit('the data is gone')"})
    run_id = new_name()
    testbed.start({"code": code, "script": "broken.py"}, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED"
    assert ended.error == "RunFailed"
    assert "the data is gone" in ended.cause
    testbed.wait_for_no_instance(run_id)


def test_dependencies_that_do_not_install_fail_the_run_and_name_the_file(
    testbed: Testbed, new_name
):
    code = testbed.upload_project(
        {"train.py": "print('never')", "requirements.txt": "./no-such-folder\n"}
    )
    run_id = new_name()
    testbed.start({"code": code, "script": "train.py"}, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED"
    assert "requirements.txt" in ended.cause
    testbed.wait_for_no_instance(run_id)


def test_no_function_was_refused_by_its_own_role(testbed: Testbed, script: str, new_name):
    """Check the journal of calls: IAM is enforced, so a missing permission would appear there."""
    run_id = new_name()
    testbed.start({"script": script, "env": {"STEPS": "2"}}, name=run_id)
    testbed.wait_for_training_completion(run_id)
    assert testbed.cloud.health()["enforced"] is True
    refused = [
        call
        for call in testbed.cloud.calls()
        if "UnauthorizedOperation" in str(call["outcome"]) or "AccessDenied" in str(call["outcome"])
    ]
    # SSM knows no tags of an instance that has not registered, and the permission requires them.
    assert [call for call in refused if call["action"] != "SendCommand"] == []
