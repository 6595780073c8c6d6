"""The monitor of a foreign training process: it is found, saved, and stopped at a notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from runctl.agent.instance.imds import Metadata
from runctl.agent.monitor.find_trainer import (
    Process,
    as_settings,
    choose,
    find_folder,
    find_trainer,
)
from runctl.agent.monitor.monitor import Monitor, Watched
from runctl.agent.monitor.plain_store import PlainStore
from runctl.aws.blobs import Blobs
from runctl.model.errors import NotFoundError, RequestError
from tests.agent.doubles import MetadataDouble
from tests.agent.machine import wait_until

BUCKET, PREFIX = "theirs", "experiments/7"

# Saves step-N.pt when a line comes; with `aware`, handles SIGTERM by one last save.
TRAINER = """
import os, pathlib, signal, sys
folder = pathlib.Path("checkpoints"); folder.mkdir(exist_ok=True)
def save(name):
    temporary = folder / (name + ".tmp")
    temporary.write_bytes(name.encode() * 1000)
    temporary.rename(folder / name)
def end(*_):
    save("step-99.pt"); sys.exit(0)
if "aware" in sys.argv: signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
for line in sys.stdin:
    save(f"step-{line.strip()}.pt"); print("saved", flush=True)
"""


class ForeignProcess:
    """A training process that runctl did not start."""

    def __init__(self, folder: Path, *words: str, program: str = TRAINER, **environ: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=folder,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def save(self, step: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{step}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "saved\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ForeignProcess]]:
    started: list[ForeignProcess] = []

    def begin(*words: str, **more: str) -> ForeignProcess:
        folder = tmp_path / f"project-{len(started)}"
        folder.mkdir()
        started.append(ForeignProcess(folder, *words, **more))
        return started[-1]

    yield begin
    for foreign in started:
        foreign.end()


@pytest.fixture
def s3() -> Iterator[object]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture
def metadata() -> Iterator[MetadataDouble]:
    double = MetadataDouble()
    yield double
    double.close()


def keys(s3) -> list[str]:
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX).get("Contents", ())
    return [item["Key"].removeprefix(f"{PREFIX}/") for item in found]


def newest(s3) -> dict:
    def read(name: str) -> dict:
        body = s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}")["Body"].read()
        return json.loads(body)

    return read(f"{read('newest.json')['checkpoint']}.json")


def files_of(manifest: dict) -> set[str]:
    return {entry["path"] for entry in manifest["entries"] if entry["kind"] == "file"}


class MonitorThread:
    """The monitor in a thread, which ends with the process that it watches."""

    def __init__(
        self, foreign: ForeignProcess, s3, metadata, tmp_path: Path, *, ends_it: bool
    ) -> None:
        process = find_trainer(pid=foreign.process.pid)
        folder = foreign.folder / "checkpoints"
        store = PlainStore(Blobs(s3, bucket=BUCKET), bucket=BUCKET, prefix=PREFIX)
        self.monitor = Monitor(
            Watched(process=process, folder=folder, ends_it=ends_it),
            store,
            Metadata(metadata.url),
            pins=tmp_path / "pins",
            pause=lambda seconds: time.sleep(min(seconds, 0.05)),
        )
        self._thread = threading.Thread(target=self.monitor.watch, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join(timeout=240)
        assert not self._thread.is_alive()


def test_whatever_settles_is_saved_as_plain_objects(start, s3, metadata, tmp_path):
    foreign = start("aware")
    foreign.save(3)
    watch = MonitorThread(foreign, s3, metadata, tmp_path, ends_it=False)
    wait_until(lambda: "newest.json" in keys(s3), why="the first save")
    manifest = newest(s3)
    assert manifest["step"] == 3
    assert files_of(manifest) == {"step-3.pt"}
    key = f"{PREFIX}/{manifest['checkpoint']}/step-3.pt"
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"step-3.pt" * 1000
    foreign.save(8)
    wait_until(lambda: newest(s3)["step"] == 8, why="the second save")
    assert files_of(newest(s3)) == {"step-3.pt", "step-8.pt"}
    foreign.end()
    watch.wait()


def test_at_a_notice_the_process_saves_and_its_last_save_is_uploaded(start, s3, metadata, tmp_path):
    foreign = start("aware")
    foreign.save(3)
    watch = MonitorThread(foreign, s3, metadata, tmp_path, ends_it=True)
    wait_until(lambda: "newest.json" in keys(s3), why="the first save")
    metadata.give_notice()
    # Reaped here, as its own parent would: a process that nobody waits for stays a zombie.
    assert foreign.process.wait(timeout=240) == 0
    watch.wait()
    assert files_of(newest(s3)) == {"step-3.pt", "step-99.pt"}


def test_without_the_option_a_notice_ends_nothing(start, s3, metadata, tmp_path):
    foreign = start()
    foreign.save(3)
    watch = MonitorThread(foreign, s3, metadata, tmp_path, ends_it=False)
    metadata.give_notice()
    wait_until(lambda: "newest.json" in keys(s3), why="the first save")
    foreign.save(4)
    wait_until(lambda: newest(s3)["step"] == 4, why="a save after the notice")
    assert foreign.process.poll() is None
    foreign.end()
    watch.wait()


def test_only_the_last_few_checkpoints_stay(start, s3, metadata, tmp_path):
    foreign = start()
    watch = MonitorThread(foreign, s3, metadata, tmp_path, ends_it=False)
    for step in range(1, 6):
        foreign.save(step)
        wait_until(
            lambda step=step: "newest.json" in keys(s3) and newest(s3)["step"] == step,
            why=f"step {step}",
        )
    manifests = [key for key in keys(s3) if key.endswith(".json") and key != "newest.json"]
    wait_until(lambda: len({key.split("/")[0] for key in keys(s3)}) == 7, why="three of them")
    assert len(manifests) <= 4
    foreign.end()
    watch.wait()


# Has a framework loaded, as far as the machine can see.
LOADED = """
import mmap, os, pathlib, sys
library = pathlib.Path("torch/lib.so")
library.parent.mkdir()
library.write_bytes(bytes(4096))
held = mmap.mmap(os.open(library, os.O_RDONLY), 4096, prot=mmap.PROT_READ)
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_one_python_with_a_framework_is_found(start, tmp_path):
    foreign = start(program=LOADED, RUNCTL_ROOT=str(tmp_path))
    start(RUNCTL_ROOT=str(tmp_path))
    assert find_trainer(root=str(tmp_path)).pid == foreign.process.pid


def test_several_candidates_are_listed_and_refused(start, tmp_path):
    both = [start(program=LOADED, RUNCTL_ROOT=str(tmp_path)) for _ in range(2)]
    with pytest.raises(RequestError, match="give --pid") as raised:
        find_trainer(root=str(tmp_path))
    assert all(f"{foreign.process.pid}: " in str(raised.value) for foreign in both)


def test_missing_candidate_is_reported_with_the_remedy(tmp_path):
    with pytest.raises(NotFoundError, match="--pid"):
        find_trainer(root=str(tmp_path / "nobody"))
    with pytest.raises(NotFoundError, match="process 999999999 does not exist"):
        find_trainer(pid=999999999)


def a_process(pid: int, parent: int, **signs: object) -> Process:
    return Process(pid=pid, parent=parent, born=1, command="python", **signs)


def test_workers_are_not_mistaken_for_trainers():
    family = [
        a_process(10, 1, has_gpu=True),
        a_process(11, 10, has_gpu=True),
        a_process(12, 11, has_gpu=True),
        a_process(20, 1, has_framework=True, cpu_share=3.0),
    ]
    assert [process.pid for process in choose(family)] == [10]


def test_a_notebook_that_loaded_a_framework_is_second_to_what_uses_the_gpu():
    known = [a_process(10, 1, has_framework=True), a_process(20, 1, has_gpu=True)]
    assert [process.pid for process in choose(known)] == [20]
    assert [process.pid for process in choose([known[0], a_process(30, 1, cpu_share=1.0)])] == [10]
    assert choose([a_process(40, 1, cpu_share=0.1)]) == []


def test_the_folder_to_which_a_program_saves_is_found(start):
    foreign = start()
    process = find_trainer(pid=foreign.process.pid)
    with pytest.raises(RequestError, match="--checkpoint-dir"):
        find_folder(process)
    (foreign.folder / "out" / "checkpoint-500").mkdir(parents=True)
    (foreign.folder / "out" / "checkpoint-500" / "model.safetensors").write_bytes(b"1")
    assert find_folder(process) == foreign.folder / "out"
    with pytest.raises(RequestError, match="is not a folder on this machine"):
        find_folder(process, given="/nowhere")


def test_systemd_reads_the_settings_as_they_were_written():
    text = as_settings(
        a_process(7, 1), Path("/a b/c"), {"MONITOR_URI": "s3://b/p", "MONITOR_SIGTERM": "yes"}
    )
    assert 'MONITOR_DIR="/a b/c"\n' in text
    assert 'MONITOR_PID="7"\n' in text
