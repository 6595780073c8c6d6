"""A processing run on real instances: every shard once, whatever happens to workers and agents."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from runctl.agent.processing import fetching
from runctl.agent.processing.fetching import ShardFetcher
from runctl.agent.processing.halt import Halt
from runctl.agent.signals.mailbox import Mailbox
from runctl.aws.inputs import InputStore
from runctl.aws.processing_jobs import ProcessingJobs
from runctl.aws.shards import ShardStore
from runctl.model.errors import RequestError
from runctl.model.input_sources import parse_input
from runctl.model.kinds import PROCESS
from runctl.model.object_checksums import Checksum
from runctl.model.processing_options import ProcessingOptions
from runctl.model.shard import PlanHeader, Shard
from runctl.policy.sharding import plan_shards
from tests.agent.machine import Cloud, Machine, now, wait_until

COPY = """
import os, pathlib
shard = os.environ["RUNCTL_SHARD"]
files = sorted(path for path in pathlib.Path(os.environ["RUNCTL_INPUT_DIR"]).rglob("*")
               if path.is_file())
text = "".join(path.read_text() for path in files)
assert int(os.environ["RUNCTL_SHARDS"]) == int(os.environ["EXPECTED"])
pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], f"{shard}.txt").write_text(text.upper())
print(f"shard {shard}: {[path.name for path in files]}", flush=True)
"""


@dataclass
class Job:
    """A processing run with `files` inputs, each with its own number as its content."""

    cloud: Cloud
    files: int
    options: ProcessingOptions

    @classmethod
    def create(
        cls,
        cloud: Cloud,
        program: str,
        *,
        files: int,
        request: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Job:
        bucket, client = cloud.name, cloud.clients["s3"]
        for number in range(files):
            key = f"inputs/raw/{number // 10}/n{number}.txt"
            client.put_object(Bucket=bucket, Key=key, Body=f"n{number};".encode())
        source = f"s3://{bucket}/inputs/raw/"
        places = {"input": source, "output": f"s3://{bucket}/outputs/clean/"}
        asked = ProcessingOptions(**places, **options)
        found = list(InputStore(client).list_objects(parse_input(source)))
        shards = list(plan_shards(found, most_files=asked.files_a_shard))
        header = PlanHeader(
            run_id=cloud.run_id,
            started_at=now(),
            **places,
            shards=len(shards),
            files=files,
            size_bytes=1,
            largest_bytes=1,
        )
        ProcessingJobs(client, bucket=bucket).put_plan(header, [each.as_line() for each in shards])
        env = {"EXPECTED": str(len(shards)), "SCRATCH": os.environ["SCRATCH"]}
        cloud.create_run(program, kind=PROCESS, process=asked, env=env, **(request or {}))
        return cls(cloud, files, asked)

    def index(self) -> list[dict[str, Any]]:
        text = self.cloud.read("outputs/clean/_index.jsonl").decode()
        return [json.loads(line) for line in text.splitlines()]

    def outputs(self) -> dict[str, str]:
        prefix = "outputs/clean/"
        return {
            key.removeprefix(prefix): self.cloud.read(key).decode()
            for key in self.cloud.keys(prefix)
            if not key.endswith("_index.jsonl")
        }

    def check_result(self) -> None:
        """Check that every input is in exactly one output, and that the index says so."""
        index = self.index()
        assert [line["shard"] for line in index] == list(range(len(index)))
        assert {line["status"] for line in index} == {"done"}
        read = [each["key"] for line in index for each in line["inputs"]]
        assert len(read) == len(set(read)) == self.files
        written = [each["name"] for line in index for each in line["outputs"]]
        outputs = self.outputs()
        assert sorted(written) == sorted(outputs)
        numbers = ";".join(outputs.values()).replace(";;", ";").strip(";").split(";")
        assert sorted(numbers) == sorted(f"N{number}" for number in range(self.files))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("SCRATCH", str(folder))
    return folder


Launch = Callable[..., Machine]


def begin(cloud: Cloud, launch: Launch, number: int = 1, **options: Any) -> Machine:
    cloud.open_attempt(number)
    machine = launch(number, **options)
    cloud.give_token(number)
    return machine


def test_every_input_is_processed_once_by_several_workers(
    cloud: Cloud, launch: Launch, scratch: Path
):
    job = Job.create(cloud, COPY, files=23, workers=3, shard_files=2)
    machine = begin(cloud, launch)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["reason"]) == ("completed", "all 12 shards are done")
    job.check_result()
    machine.wait()
    assert machine.shut_down
    shards = cloud.attempt().shards
    assert shards is not None
    assert (shards.total, shards.done, shards.failed, shards.found) == (12, 12, 0, 0)
    lines = [line for line in cloud.log("run-1/0001-000") if line.startswith("shard ")]
    assert len(lines) == 12
    left = [path.name for path in (machine.state / "shards").iterdir()]
    assert sorted(left) == ["index.jsonl", "plan.jsonl", "results.jsonl"]


FAILS_SOMETIMES = (
    COPY
    + """
tries = pathlib.Path(os.environ["SCRATCH"], shard)
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if shard == "3" and len(tries.read_text()) < 3:
    pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "torn.txt").write_text("torn")
    raise SystemExit("the network is away")
if shard == "5":
    raise SystemExit(f"{files[0].name} has no header")
"""
)


def test_failures_are_tried_again_and_then_tolerated(cloud: Cloud, launch: Launch, scratch: Path):
    job = Job.create(cloud, FAILS_SOMETIMES, files=10, workers=2, retries=2, tolerated_failures=0.1)
    begin(cloud, launch)
    outcome = cloud.outcome()
    assert outcome["kind"] == "completed"
    assert outcome["reason"] == "9 of 10 shards are done, and 1 failed, which the run tolerates"
    index = job.index()
    assert [line["status"] for line in index].count("done") == 9
    assert (index[5]["status"], index[5]["tries"], index[5]["outputs"]) == ("failed", 3, [])
    assert index[5]["reason"] == "exit code 1: n5.txt has no header"
    assert index[3]["tries"] == 3
    assert (scratch / "3").read_text() == "xxx"
    assert "torn.txt" not in job.outputs()


def test_a_run_fails_with_the_last_words_of_the_shard_that_fails(
    cloud: Cloud, launch: Launch, scratch: Path
):
    Job.create(cloud, FAILS_SOMETIMES, files=40, workers=2, retries=1)
    begin(cloud, launch)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert outcome["reason"].startswith("shard 3 failed 2 times: exit code 1: the network is away")
    assert cloud.keys("outputs/clean/_index.jsonl") == []


def test_a_resumed_run_tries_failed_shards_again(cloud: Cloud, launch: Launch, scratch: Path):
    job = Job.create(cloud, FAILS_SOMETIMES.replace('"5"', '"none"'), files=6, retries=0)
    begin(cloud, launch)
    assert cloud.outcome()["kind"] == "failed"
    for number in (2, 3):
        cloud.tokens.reports.clear()
        item = {"pk": {"S": "RUN#run-1"}, "sk": {"S": "RUN"}}
        cloud.clients["dynamodb"].update_item(
            TableName=cloud.name,
            Key=item,
            UpdateExpression="SET first_attempt = :first",
            ExpressionAttributeValues={":first": {"N": str(number)}},
        )
        begin(cloud, launch, number)
        outcome = cloud.outcome()
    assert outcome["kind"] == "completed"
    job.check_result()


WAITS = (
    COPY
    + """
import signal, sys, time
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
saved = folder / "step"
began = saved.read_text() if saved.exists() else "the beginning"
pathlib.Path(os.environ["SCRATCH"], f"{shard}-{os.environ['RUNCTL_ATTEMPT']}").write_text(began)
def save(*_):
    saved.write_text("a save")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
while int(shard) >= 4 and not pathlib.Path(os.environ["SCRATCH"], "open").exists():
    time.sleep(0.02)
"""
)


def has_begun(scratch: Path, *names: str) -> Callable[[], bool]:
    return lambda: all((scratch / name).exists() for name in names)


def test_a_notice_repeats_only_what_is_unfinished_and_gives_it_its_checkpoint(
    cloud: Cloud, launch: Launch, scratch: Path
):
    job = Job.create(cloud, WAITS, files=8, workers=2)
    machine = begin(cloud, launch)
    wait_until(has_begun(scratch, "4-1", "5-1"))
    machine.metadata.give_notice(30)
    outcome = cloud.outcome()
    assert outcome["kind"] == "interrupted"
    done = cloud.keys("runs/run-1/shards/done/")
    assert len(done) == 4
    assert len(cloud.keys("runs/run-1/checkpoints/shards/")) == 2
    cloud.tokens.reports.clear()
    (scratch / "open").touch()
    begin(cloud, launch, 2)
    assert cloud.outcome()["kind"] == "completed"
    job.check_result()
    assert not has_begun(scratch, "0-2")()
    assert (scratch / "4-2").read_text() == (scratch / "5-2").read_text() == "a save"
    assert (scratch / "6-2").read_text() == "the beginning"
    assert cloud.keys("runs/run-1/checkpoints/shards/") == []
    assert cloud.attempt(2).shards.found == 4


def test_an_instance_that_vanishes_loses_only_what_it_was_processing(
    cloud: Cloud, launch: Launch, scratch: Path
):
    job = Job.create(cloud, WAITS, files=8, workers=2)
    machine = begin(cloud, launch)
    wait_until(has_begun(scratch, "4-1", "5-1"))
    wait_until(lambda: len(cloud.keys("runs/run-1/shards/done/")) == 4)
    machine.end()
    (scratch / "open").touch()
    begin(cloud, launch, 2)
    assert cloud.outcome()["kind"] == "completed"
    job.check_result()
    assert not has_begun(scratch, "0-2")()
    assert (scratch / "4-2").read_text() == "the beginning"


@pytest.mark.parametrize("point", ["processing.uploaded", "processing.committed"])
def test_an_agent_that_is_killed_while_it_publishes_publishes_once(
    cloud: Cloud, launch: Launch, scratch: Path, point: str
):
    job = Job.create(cloud, COPY, files=5)
    machine = begin(cloud, launch, fault=point)
    machine.wait()
    machine.fault = ""
    machine.start()
    assert cloud.outcome()["kind"] == "completed"
    job.check_result()


def test_workers_that_are_killed_lose_no_shard_and_repeat_none(
    cloud: Cloud, launch: Launch, scratch: Path
):
    slow = COPY.replace('print(f"shard', 'import time; time.sleep(0.05)\nprint(f"shard')
    job = Job.create(cloud, slow, files=60, workers=4, retries=100)
    machine = begin(cloud, launch)
    assert machine.process is not None
    agent, killed = psutil.Process(machine.process.pid), 0
    until = time.monotonic() + 60
    while not cloud.tokens.reports and time.monotonic() < until:
        for child in agent.children():
            try:
                if killed < 25 and "train.py" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    killed += 1
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.03)
    assert cloud.outcome()["kind"] == "completed"
    assert killed > 5
    job.check_result()
    tries = [line["tries"] for line in job.index()]
    assert sum(tries) > len(tries)


def test_two_shards_that_write_the_same_file_are_reported(
    cloud: Cloud, launch: Launch, scratch: Path
):
    Job.create(cloud, COPY.replace('f"{shard}.txt"', '"all.txt"'), files=2)
    begin(cloud, launch)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "shard 1 failed: shard 0 has written all.txt, too; put the number" in outcome["reason"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('os.symlink("/etc/hostname", out / "host")', "is a link to '/etc/hostname'; write a copy"),
        ('os.symlink(out, out / "loop")', "is a link to a folder; write a copy"),
        ('(out / "_index.jsonl").touch()', "is a name that runctl uses; choose another"),
        ('os.mkfifo(out / "pipe")', "is not a file; remove it"),
    ],
)
def test_outputs_that_cannot_be_stored_fail_their_shard(
    cloud: Cloud, launch: Launch, scratch: Path, line: str, message: str
):
    Job.create(
        cloud, f'{COPY}\nout = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])\n{line}\n', files=1
    )
    begin(cloud, launch)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert message in outcome["reason"]


def test_an_input_that_changed_since_the_plan_fails_its_shard_at_once(
    cloud: Cloud, launch: Launch, scratch: Path
):
    Job.create(cloud, COPY, files=3)
    cloud.clients["s3"].put_object(Bucket=cloud.name, Key="inputs/raw/0/n1.txt", Body=b"other")
    begin(cloud, launch)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "shard 1 failed: s3://" in outcome["reason"]
    assert "was changed or deleted while the inputs were staged" in outcome["reason"]


WRONG = Checksum.choose({"SHA256": "A" * 43 + "="}, size_bytes=1, part_bytes=0)


class WrongInputs(InputStore):
    """Objects that do not have the content of which S3 knows the checksum."""

    @contextlib.contextmanager
    def open(self, *args: Any, **options: Any) -> Iterator[Any]:
        with super().open(*args, **options) as part:
            yield replace(part, checksum=WRONG)


def test_an_input_that_never_matches_its_checksum_is_not_fetched_forever(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.0)
    client = cloud.clients["s3"]
    client.put_object(Bucket=cloud.name, Key="raw/a", Body=b"a")
    uri = f"s3://{cloud.name}/raw/"
    fetcher = ShardFetcher(
        WrongInputs(client),
        ShardStore(client, bucket=cloud.name, job="job"),
        uri=uri,
        folder=tmp_path,
        interrupted=set(),
        halt=Halt(Mailbox()),
        others_need_disk=lambda: False,
    )
    found = tuple(InputStore(client).list_objects(parse_input(uri)))
    with pytest.raises(RequestError, match=r"raw/a does not match its checksum \(SHA256\)"):
        fetcher.fetch(Shard(number=0, files=found))


def test_a_run_that_is_stopped_reports_that(cloud: Cloud, launch: Launch, scratch: Path):
    Job.create(cloud, WAITS, files=6, workers=2)
    machine = begin(cloud, launch)
    wait_until(has_begun(scratch, "4-1", "5-1"))
    machine.ask("stop")
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["reason"]) == ("stopped", "stopped by the user")
