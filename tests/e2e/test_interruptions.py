"""A run survives every interruption, and ends with exactly the bits of an undisturbed one."""

from pathlib import Path

import pytest

from runctl.model.outcome import OutcomeKind, RunStatus
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e
EXAMPLES = PROJECT / "examples" / "training"
EPOCHS = 40


@pytest.fixture(scope="module")
def often_saving(testbed: Testbed) -> str:
    """The project of a trainer that needs only Python and overwrites its file in place."""
    return testbed.upload_project(
        {"train_with_checkpoints.py": EXAMPLES / "train_with_checkpoints.py"}
    )


@pytest.fixture(scope="module")
def digits(testbed: Testbed) -> str:
    """The project of the digit trainer, whose dependencies `make setup` has downloaded."""
    wheels = PROJECT / "build" / "wheels"
    assert any(wheels.glob("scikit_learn-*.whl")), "run `make setup` first"
    head, _, program = (EXAMPLES / "train_mnist.py").read_text().partition("# ///\n")
    assert "scikit-learn" in head
    return testbed.upload_project(
        {
            "train_mnist.py": program,
            "requirements.txt": f"--no-index\n--find-links {wheels}\nnumpy\nscikit-learn\n",
        }
    )


def digit_request(code: str, *, slow: bool) -> dict:
    pace = ["--epoch-seconds", "0.25", "--save-seconds", "0.15"] if slow else []
    return {"code": code, "script": "train_mnist.py", "args": ["--epochs", str(EPOCHS), *pace]}


def is_saving(testbed: Testbed, instance_id: str) -> bool:
    """Return whether a half-written checkpoint lies in the instance's checkpoint folder."""
    root = Path(testbed.cloud.instance(instance_id)["root"])
    return any((root / "var/lib/runctl/checkpoint").glob("*.partial"))


def test_three_interruptions_leave_the_final_weights_bit_identical(testbed: Testbed, digits: str):
    interrupted = testbed.start(digit_request(digits, slow=True))
    testbed.wait_for_training(interrupted, attempt=1, step=3)
    alone = testbed.start(digit_request(digits, slow=False))

    testbed.simulate_spot_interruption(interrupted, attempt=1)

    testbed.wait_for_training(interrupted, attempt=2, step=8)
    second = testbed.create_test_spot_instance(interrupted, attempt=2)
    wait_for(lambda: is_saving(testbed, second), "a save to be under way")
    testbed.simulate_spot_interruption(interrupted, attempt=2)

    third = testbed.wait_for_training(interrupted, attempt=3, step=15)
    testbed.simulate_spot_interruption(interrupted, attempt=3, notice=False)

    ended = testbed.wait_for_training_completion(interrupted)
    testbed.wait_for_training_completion(alone)
    assert ended.status == "SUCCEEDED", testbed.story(interrupted)
    attempts = testbed.attempts(interrupted)
    kinds = [attempt.ended.kind for attempt in attempts if attempt.ended]
    assert kinds[0] is kinds[1] is OutcomeKind.INTERRUPTED, testbed.story(interrupted)
    assert kinds[2] in {OutcomeKind.INTERRUPTED, OutcomeKind.LOST}
    assert kinds[3] is OutcomeKind.COMPLETED
    resumed = [attempt.resume_step for attempt in attempts]
    assert resumed[0] is None
    assert resumed[1:] == sorted(resumed[1:])
    assert resumed[3] >= third.resume_step
    assert testbed.output(interrupted, "weights.npz") == testbed.output(alone, "weights.npz")
    assert testbed.result(interrupted)["epochs"] == EPOCHS
    testbed.verify_checkpoint_exists(interrupted)
    wait_for(
        lambda: len(testbed.live_instances(interrupted)) == 0,
        "every instance to be gone",
    )


def test_the_replacement_is_launched_before_the_old_instance_is_gone(
    testbed: Testbed, often_saving: str
):
    run_id = testbed.start(
        {
            "code": often_saving,
            "script": "train_with_checkpoints.py",
            "args": ["--steps", "100", "--step-seconds", "0.1"],
            # Pools that no other test has made cool down: the launch chooses only among those.
            "instance_types": ["r7i.xlarge", "r7a.xlarge", "r6a.xlarge"],
        }
    )
    testbed.wait_for_training(run_id, save=1)
    old = testbed.simulate_spot_interruption(run_id, attempt=1, notice_seconds=45)
    new = testbed.create_test_spot_instance(run_id, attempt=2)
    assert testbed.cloud.instance(old)["state"] == "running"
    assert new != old
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert testbed.cloud.instance(old)["pool"] != testbed.cloud.instance(new)["pool"]
    assert testbed.result(run_id)["step"] == 100


def test_no_attempt_resumes_from_a_torn_save(testbed: Testbed, often_saving: str):
    """Use a trainer that writes in place without pause and is killed in the middle of a save."""
    run_id = testbed.start(
        {
            "code": often_saving,
            "script": "train_with_checkpoints.py",
            "args": [
                "--steps",
                "16",
                "--every",
                "2",
                "--megabytes",
                "8",
                "--write-pause",
                "0.08",
                "--step-seconds",
                "0.4",
            ],
        }
    )
    testbed.wait_for_training(run_id, save=1)
    testbed.simulate_spot_interruption(run_id, attempt=1, notice=False)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert not any("torn" in line for line in testbed.log(run_id, 2))
    assert testbed.attempts(run_id)[1].resume_save is not None


def test_without_auto_resume_the_run_ends_interrupted_and_can_be_resumed(
    testbed: Testbed, often_saving: str
):
    run_id = testbed.start(
        {
            "code": often_saving,
            "script": "train_with_checkpoints.py",
            "args": ["--steps", "100", "--step-seconds", "0.1"],
            "auto_resume": False,
        }
    )
    testbed.wait_for_training(run_id, save=1)
    testbed.simulate_spot_interruption(run_id, attempt=1)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert ended.output["status"] == "interrupted"
    assert len(testbed.attempts(run_id)) == 1
    saved = testbed.run(run_id).save

    testbed.workflow.start_run(f"{run_id}-r2", {"run_id": run_id})
    ended = testbed.wait_for_training_completion(run_id, execution=f"{run_id}-r2")
    assert ended.output["status"] == "completed", testbed.story(run_id)
    assert testbed.attempts(run_id)[1].resume_save == saved
    assert testbed.result(run_id)["step"] == 100


def test_a_trainer_that_ignores_sigterm_loses_only_what_it_had_not_saved(
    testbed: Testbed, often_saving: str
):
    run_id = testbed.start(
        {
            "code": often_saving,
            "script": "train_with_checkpoints.py",
            "args": ["--steps", "100", "--step-seconds", "0.1", "--ignore-sigterm"],
            "checkpoint": {"grace_seconds": 1},
        }
    )
    testbed.wait_for_training(run_id, save=1)
    testbed.simulate_spot_interruption(run_id, attempt=1)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert testbed.attempts(run_id)[1].resume_save is not None
    assert "at step 0" not in testbed.log(run_id, 2)


def test_the_status_of_a_finished_run_is_completed(testbed: Testbed, often_saving: str):
    run_id = testbed.start(
        {"code": often_saving, "script": "train_with_checkpoints.py", "args": ["--steps", "3"]}
    )
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.output["status"] == "completed", testbed.story(run_id)
    assert testbed.run(run_id).ended is RunStatus.COMPLETED
    testbed.wait_for_no_instance(run_id)
