"""Checkpoints are evaluated: of S3 and of runs, one and every one, through interruptions."""

from pathlib import Path

import pytest

from runctl.model.evaluation_history import read_history
from runctl.model.outcome import OutcomeKind
from tests.e2e.books import check_machines
from tests.e2e.printed import printed_command, start_printed
from tests.e2e.testbed import PROJECT, Testbed

pytestmark = pytest.mark.e2e
EXAMPLES = PROJECT / "examples"
EVALUATES = EXAMPLES / "scripts" / "evaluate_model.py"
DIGITS = sorted((EXAMPLES / "data" / "test-digits").glob("*.csv"))
EPOCHS = 4
# The example, slow until it has been interrupted twice.
SLOW = """
import os, sys
import evaluate_model

sys.argv += ["--batch", "12"]
if int(os.environ["RUNCTL_ATTEMPT"]) < 3:
    sys.argv += ["--batch-seconds", "1"]
evaluate_model.main()
"""


def read(testbed: Testbed, key: str) -> bytes:
    answer = testbed.clients.get("s3").get_object(Bucket=testbed.deployment.bucket, Key=key)
    content: bytes = answer["Body"].read()
    return content


@pytest.fixture(scope="module")
def code(testbed: Testbed) -> str:
    return testbed.upload_project(
        {
            "train.py": EXAMPLES / "training" / "train_mnist.py",
            "scripts/evaluate_model.py": EVALUATES,
            "scripts/slow.py": SLOW,
            "requirements.txt": "numpy>=2,<3",
            **{f"data/test-digits/{path.name}": path for path in DIGITS},
        }
    )


@pytest.fixture(scope="module")
def test_data(testbed: Testbed) -> str:
    """The prefix of some packaged digits in the bucket."""
    for path in DIGITS:
        testbed.clients.get("s3").put_object(
            Bucket=testbed.deployment.bucket,
            Key=f"inputs/digits-to-test/{path.name}",
            Body=path.read_bytes(),
        )
    return f"s3://{testbed.deployment.bucket}/inputs/digits-to-test/"


@pytest.fixture(scope="module")
def trained(testbed: Testbed, code: str) -> tuple[str, str]:
    """A run that has trained, and the one that has evaluated each of its checkpoints meanwhile."""
    args = ["--epochs", str(EPOCHS), "--epoch-seconds", "0.7"]
    # Fewer are kept than there are: the others are pinned until they are evaluated.
    request = {"code": code, "script": "train.py", "args": args, "checkpoint": {"keep_last": 1}}
    run_id = testbed.start(request)
    evaluate = {"checkpoint": f"run:{run_id}", "every_checkpoint": True}
    program = {
        "code": code,
        "script": "scripts/evaluate_model.py",
        "args": ["--checkpoint", "$RUNCTL_INPUT_DIR/checkpoint"],
    }
    testbed.wait_for_training(run_id)
    follower = testbed.start({**program, "kind": "evaluate", "evaluate": evaluate})
    for name in (run_id, follower):
        ended = testbed.wait_for_training_completion(name)
        assert ended.status == "SUCCEEDED", testbed.story(name)
    return run_id, follower


def test_every_checkpoint_is_evaluated_while_the_run_trains(
    testbed: Testbed, trained: tuple[str, str]
):
    run_id, follower = trained
    history = read_history(read(testbed, f"runs/{follower}/outputs/evaluations.jsonl"))
    # It follows from its own start: what retention removed before that is not there any more.
    steps = [each.step for each in history]
    assert steps == list(range(EPOCHS - len(steps) + 1, EPOCHS + 1))
    assert all(0 < each.metrics["accuracy"] <= 1 for each in history)
    result = testbed.run(follower)
    assert result.metrics == {**history[-1].metrics, "step": EPOCHS}
    assert result.reason == f"{len(steps)} checkpoint{'s' * (len(steps) > 1)} evaluated"
    assert testbed.run(run_id).pins == frozenset()
    check_machines(testbed, follower)


def test_an_evaluation_interrupted_twice_continues_where_it_was(
    testbed: Testbed, code: str, trained: tuple[str, str], new_name
):
    run_id, (trained_run, follower) = new_name(), trained
    testbed.start(
        {
            "kind": "evaluate",
            "code": code,
            "script": "scripts/slow.py",
            "args": ["--checkpoint", "$RUNCTL_INPUT_DIR/checkpoint"],
            "evaluate": {"checkpoint": f"run:{trained_run}@{EPOCHS}"},
        },
        name=run_id,
    )
    saves = 0
    for attempt, has_notice in ((1, True), (2, False)):
        testbed.wait_for_training(run_id, attempt=attempt, save=saves + 1)
        testbed.simulate_spot_interruption(run_id, attempt=attempt, notice=has_notice)
        saves = testbed.run(run_id).save
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert ended.output is not None
    last = read_history(read(testbed, f"runs/{follower}/outputs/evaluations.jsonl"))[-1]
    assert ended.output["metrics"] == testbed.run(run_id).metrics == last.metrics
    subject = testbed.run(run_id).subject
    assert subject is not None
    assert (subject.run_id, subject.step) == (trained_run, EPOCHS)
    kinds = [attempt.ended.kind for attempt in testbed.attempts(run_id) if attempt.ended]
    assert kinds[0] is OutcomeKind.INTERRUPTED
    assert kinds[-1] is OutcomeKind.COMPLETED
    assert any(line.startswith("continues after") for line in testbed.log(run_id, len(kinds)))
    check_machines(testbed, run_id)


@pytest.mark.parametrize("instance", [True, False])
def test_the_printed_command_evaluates_a_checkpoint(
    testbed: Testbed,
    trained: tuple[str, str],
    test_data: str,
    new_name,
    tmp_path: Path,
    instance: bool,
):
    bucket, name = testbed.deployment.bucket, new_name()
    testbed.clients.get("s3").copy_object(
        Bucket=bucket,
        Key="inputs/checkpoints/best.pt",
        CopySource={"Bucket": bucket, "Key": f"runs/{trained[0]}/outputs/weights.npz"},
    )
    scripts = tmp_path / "project" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "evaluate.py").write_text(EVALUATES.read_text())
    names = {
        "BUCKET": bucket,
        "inputs/test-data": "inputs/digits-to-test",
        "evaluation-results": name,
    }
    command = printed_command("runctl aws train $INSTANCE_ID scripts/evaluate.py")
    process = start_printed(testbed, command, tmp_path / "project", names=names, instance=instance)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "this is an evaluation: runctl reads --checkpoint, --test-data and" in printed
    assert b'"accuracy"' in read(testbed, f"outputs/{name}/metrics.json")
    assert read(testbed, f"outputs/{name}/confusion.csv")


def test_what_cannot_be_evaluated_ends_the_run_before_a_machine_is_paid_for(
    testbed: Testbed, trained: tuple[str, str], new_name
):
    bucket, name = testbed.deployment.bucket, new_name()
    evaluate = {
        "checkpoint": f"run:{trained[0]}@99",
        "test_data": f"s3://{bucket}/inputs/none/",
        "output": f"s3://{bucket}/runs/{name}/",
    }
    testbed.start({"kind": "evaluate", "command": ["true"], "evaluate": evaluate}, name=name)
    ended = testbed.wait_for_training_completion(name)
    assert ended.status == "FAILED"
    for expected in (
        f"evaluate.checkpoint: {trained[0]} has no checkpoint of step 99; it has step {EPOCHS}",
        "evaluate.test_data: there are no objects below",
        "evaluate.output: runs do not write to",
    ):
        assert expected in ended.cause
    assert testbed.ledger.find_run(name) is None
