"""Data is processed shard by shard, each once, through interruptions with and without a notice."""

import io
import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from rich.console import Console

from runctl.aws.workflow import Execution
from runctl.cli.display.following import following_view
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.report.run_document import document_of
from tests.e2e.books import check_machines
from tests.e2e.printed import printed_command, start_printed
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e
EXAMPLE = PROJECT / "examples" / "scripts" / "preprocess_data.py"
DIGITS = sorted((PROJECT / "examples" / "data" / "digits").glob("*.csv"))

# The example, which notes what it begins and waits until it is interrupted while a condition holds.
BEGUN = """
import os, pathlib, signal, sys, time
import preprocess_data

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
shard, attempt = int(os.environ["RUNCTL_SHARD"]), int(os.environ["RUNCTL_ATTEMPT"])
begun = pathlib.Path(os.environ["BEGUN"])
begun.with_name(f"{begun.name}-{attempt}-{shard}").touch()
while {condition}:
    time.sleep(0.05)
preprocess_data.main()
"""
GATED = BEGUN.replace("{condition}", "shard >= 2 * attempt and attempt < 3")
# The two shards that follow the first two wait in their first attempts.
GATED_ONCE = BEGUN.replace("{condition}", "shard in {2, 3} and attempt == 1")


@pytest.fixture(scope="module")
def digits(testbed: Testbed) -> str:
    """The prefix of the packaged digits in the bucket."""
    for path in DIGITS:
        testbed.clients.get("s3").put_object(
            Bucket=testbed.deployment.bucket,
            Key=f"inputs/digits/{path.name}",
            Body=path.read_bytes(),
        )
    return f"s3://{testbed.deployment.bucket}/inputs/digits/"


def read(testbed: Testbed, output: str) -> dict[str, bytes]:
    """Return the objects below an output by their names."""
    bucket, _, prefix = output.removeprefix("s3://").partition("/")
    client = testbed.clients.get("s3")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    return {
        item["Key"].removeprefix(prefix): client.get_object(Bucket=bucket, Key=item["Key"])[
            "Body"
        ].read()
        for item in listed
    }


def by_hand(folder: Path) -> dict[str, bytes]:
    """Return what the example makes of each file on its own, by its name without the shard."""
    subprocess.run(
        [sys.executable, EXAMPLE, "--input-s3", DIGITS[0].parent, "--output-s3", folder],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return {path.name.partition("-")[2]: path.read_bytes() for path in folder.iterdir()}


def check_dataset(testbed: Testbed, output: str, expected: dict[str, bytes]) -> None:
    """Check that the output has each file once, as it was made by hand, as the index says."""
    found = read(testbed, output)
    assert found.pop("_run.json")
    index = [json.loads(line) for line in found.pop("_index.jsonl").splitlines()]
    assert [line["status"] for line in index] == ["done"] * len(DIGITS)
    assert sorted(each["name"] for line in index for each in line["outputs"]) == sorted(found)
    assert {name.partition("-")[2]: content for name, content in found.items()} == expected


def check_progress(testbed: Testbed, run_id: str, *, ended: int) -> None:
    """Check that following a run shows its number of shards, their rate and the time left."""

    def shown() -> str:
        now = datetime.now(timezone.utc)
        document = document_of(testbed.run(run_id), testbed.attempts(run_id), now=now)
        lines = Console(width=100, file=io.StringIO()).render_lines(
            following_view(run_id, document), pad=False
        )
        return "\n".join("".join(part.text for part in line) for line in lines)

    filled = "#" * (ended * 20 // len(DIGITS))
    expected = re.compile(
        rf"shards \[{filled:-<20}\] {ended} of {len(DIGITS)}, "
        r"[\d.]+ an? (second|minute|hour), [\dsmh ]+ left\n"
    )
    wait_for(lambda: expected.search(shown()), f"{ended} shards of {run_id} with their rate")


def test_a_job_interrupted_twice_has_the_dataset_of_an_undisturbed_one(
    testbed: Testbed, digits: str, new_name, tmp_path: Path
):
    run_id = new_name()
    output = f"s3://{testbed.deployment.bucket}/outputs/{run_id}/"
    code = testbed.upload_project({"job.py": GATED, "preprocess_data.py": EXAMPLE})
    begun = tmp_path / "begun"
    testbed.start(
        {
            "kind": "process",
            "code": code,
            "script": "job.py",
            "env": {"BEGUN": str(begun)},
            "process": {"input": digits, "output": output, "workers": 2},
        },
        name=run_id,
    )
    for attempt, has_notice in ((1, True), (2, False)):
        first = 2 * attempt
        for shard in (first, first + 1):
            mark = begun.with_name(f"{begun.name}-{attempt}-{shard}")
            wait_for(mark.exists, f"shard {shard} in attempt {attempt}")
        check_progress(testbed, run_id, ended=first)
        testbed.simulate_spot_interruption(run_id, attempt=attempt, notice=has_notice)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert ended.output is not None
    assert ended.output["outputs"] == output
    check_dataset(testbed, output, by_hand(tmp_path / "expected"))
    attempts = testbed.attempts(run_id)
    kinds = [attempt.ended.kind for attempt in attempts if attempt.ended]
    assert kinds[0] is OutcomeKind.INTERRUPTED
    assert kinds[-1] is OutcomeKind.COMPLETED
    assert [attempt.shards.found for attempt in attempts if attempt.shards] == [0, 2, 4]
    # A shard that is done is not begun again.
    marks = [path.name.split("-")[-2:] for path in tmp_path.glob("begun-*")]
    again = {shard for attempt, shard in marks if int(attempt) > 1}
    assert not {"0", "1"} & again
    check_machines(testbed, run_id)


def start_job(testbed: Testbed, name: str, request: dict) -> None:
    testbed.processing_workflow.start_run(name, {"kind": "process", **request})


def wait_for_job(testbed: Testbed, name: str) -> Execution:
    workflow = testbed.processing_workflow
    arn = workflow.execution_arn(name)

    def check() -> Execution | None:
        found = workflow.find_execution(arn)
        return None if found is None or found.is_running else found

    return wait_for(check, f"the job {name}", timeout=timedelta(seconds=240))


def test_a_job_that_loses_each_of_its_instances_has_every_shard_once(
    testbed: Testbed, digits: str, new_name, tmp_path: Path
):
    name = new_name()
    output = f"s3://{testbed.deployment.bucket}/outputs/{name}/"
    code = testbed.upload_project({"job.py": GATED_ONCE, "preprocess_data.py": EXAMPLE})
    begun = tmp_path / "begun"
    process = {"input": digits, "output": output, "instances": 2}
    request = {"code": code, "script": "job.py", "env": {"BEGUN": str(begun)}, "process": process}
    start_job(testbed, name, request)
    for shard in (2, 3):
        wait_for(begun.with_name(f"{begun.name}-1-{shard}").exists, f"shard {shard}")
    lost = {
        testbed.simulate_spot_interruption(f"{name}-0003", attempt=1, notice=True),
        testbed.simulate_spot_interruption(f"{name}-0004", attempt=1, notice=False),
    }
    assert len(lost) == 2
    ended = wait_for_job(testbed, name)
    assert ended.status == "SUCCEEDED", ended.cause
    assert (ended.output["done"], ended.output["failed"]) == (len(DIGITS), 0)
    found = read(testbed, output)
    index = [json.loads(line) for line in found["_index.jsonl"].splitlines()]
    runs = [f"{name}-{number:04d}" for number in range(1, len(DIGITS) + 1)]
    assert [(line["status"], line["run_id"]) for line in index] == [("done", run) for run in runs]
    written = [each["name"] for line in index for each in line["outputs"]]
    assert len(written) == len(set(written)) == len(DIGITS)
    made = {file.partition("-")[2]: found[file] for file in written}
    assert made == by_hand(tmp_path / "expected")
    # Only what the lost instances were at is begun again.
    again = [(2, 2), (2, 3)]
    marks = sorted(tuple(map(int, path.name.split("-")[1:])) for path in tmp_path.glob("begun-*"))
    assert marks == [*((1, shard) for shard in range(len(DIGITS))), *again]
    for run in runs:
        used = [instance for each in testbed.attempts(run) for instance in each.instance_ids]
        assert len(used) == (2 if run in {runs[2], runs[3]} else 1)
        assert used[-1] not in lost or run in runs[:2]
    group = testbed.groups.find_group(name)
    assert group is not None
    assert group.ended is RunStatus.COMPLETED


def test_a_job_on_several_instances_fails_with_the_words_of_its_shard_and_is_resumed(
    testbed: Testbed, digits: str, new_name, tmp_path: Path
):
    name = new_name()
    output = f"s3://{testbed.deployment.bucket}/outputs/{name}/"
    process = {"input": digits, "output": output, "instances": 2, "shard_files": 3, "retries": 0}
    mended = tmp_path / "mended"
    words = f"[ -e {mended} ] || [ $RUNCTL_SHARD = 0 ] || {{ echo no header >&2; exit 3; }}"
    command = ["sh", "-c", f"{words}; touch $RUNCTL_OUTPUT_DIR/$RUNCTL_SHARD"]
    start_job(testbed, name, {"command": command, "process": process})
    ended = wait_for_job(testbed, name)
    assert ended.status == "FAILED"
    assert "failed: exit code 3: no header" in ended.cause
    group = testbed.groups.find_group(name)
    assert group is not None
    assert group.ended is RunStatus.FAILED

    mended.touch()
    # The run of the other shard was stopped with the job, unless it had completed by then.
    wait_for(lambda: testbed.run(f"{name}-0001").ended, "the other run to end")
    before = testbed.run(f"{name}-0001")
    testbed.processing_workflow.start_run(f"{name}-r2", {"group_id": name})
    ended = wait_for_job(testbed, f"{name}-r2")
    assert ended.status == "SUCCEEDED", ended.cause
    assert (ended.output["done"], ended.output["failed"]) == (2, 0)
    assert {"0", "1", "_index.jsonl"} <= read(testbed, output).keys()
    assert testbed.run(f"{name}-0002").executions == 2
    if before.ended is RunStatus.COMPLETED:
        assert testbed.run(f"{name}-0001") == before


@pytest.mark.parametrize("instance", [True, False])
def test_the_printed_command_processes_data(
    testbed: Testbed, digits: str, new_name, tmp_path: Path, instance: bool
):
    name = new_name()
    output = f"s3://{testbed.deployment.bucket}/outputs/{name}/"
    (tmp_path / "project" / "scripts").mkdir(parents=True)
    (tmp_path / "project" / "scripts" / "preprocess.py").write_text(EXAMPLE.read_text())
    names = {"BUCKET": testbed.deployment.bucket, "raw-data": "digits", "processed-data": name}
    command = printed_command("runctl aws train $INSTANCE_ID scripts/preprocess.py")
    process = start_printed(testbed, command, tmp_path / "project", names=names, instance=instance)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "this is a run that processes data: runctl reads" in printed
    assert "completed: 6 of 6 shards" in printed
    check_dataset(testbed, output, by_hand(tmp_path / "expected"))


def test_data_that_cannot_be_processed_ends_the_run_before_a_machine_is_paid_for(
    testbed: Testbed, digits: str, new_name
):
    run_id, bucket = new_name(), testbed.deployment.bucket
    testbed.clients.get("s3").put_object(
        Bucket=bucket, Key=f"outputs/{run_id}/old.csv", Body=b"old"
    )
    expected = {
        f"s3://{bucket}/outputs/{run_id}/": "holds data already ('old.csv')",
        f"s3://{bucket}/runs/{run_id}/": "runs do not write to",
        "s3://there-is-no-such-bucket/a/": "there is no bucket there-is-no-such-bucket",
    }
    for number, (output, message) in enumerate(expected.items()):
        name = f"{run_id}-{number}"
        process = {"input": f"s3://{bucket}/inputs/none/", "output": output}
        testbed.start({"kind": "process", "command": ["true"], "process": process}, name=name)
        ended = testbed.wait_for_training_completion(name)
        assert ended.status == "FAILED"
        assert "process.input: there are no objects below" in ended.cause
        assert message in ended.cause
        assert testbed.ledger.find_run(name) is None
