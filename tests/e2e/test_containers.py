"""Runs in containers on the local cloud: built, pulled, interrupted and resumed for real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker_engine import (
    Engine,
    Registry,
    needs_engine,
    needs_registry,
    serving_engine,
    serving_registry,
)
from tests.e2e.testbed import Testbed, wait_for

pytestmark = [needs_engine, needs_registry, pytest.mark.e2e]

LOGIN = ("builder", "pass:w0rd-of-the-registry")
# The example of the roadmap, on a base image that the tests have.
DOCKERFILE = """\
FROM {base}

WORKDIR /workspace
COPY requirements.txt .
RUN python -m pip install --no-index -r requirements.txt

COPY . .

CMD ["python", "training/train_mnist.py"]
"""
TRAINER = """\
import os, signal, time
from pathlib import Path

folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
steps = sorted(int(path.stem.partition("-")[2]) for path in folder.glob("step-*.txt"))
step = steps[-1] if steps else 0
print("from", step, "in", os.getcwd(), os.environ.get("VERSION", ""), flush=True)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
last = int(os.environ.get("LAST", 1 << 30))
attempt = int(os.environ["RUNCTL_ATTEMPT"])
while not asked and not (attempt > 1 and step >= last):
    time.sleep(0.1)
    step += 1
(folder / f"step-{step}.txt").write_text("x" * step)
print("saved", step, flush=True)
"""
PROJECT = {"requirements.txt": "# nothing\n", "training/train_mnist.py": TRAINER}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving_engine() as engine:
        engine.import_base("python", "python3")
        (engine.folder / "base").mkdir()
        (engine.folder / "base/Dockerfile").write_text(
            "FROM python3\nRUN ln -sf $(command -v python3) /usr/local/bin/python\n"
        )
        engine.docker("build", "--tag", "base", engine.folder / "base")
        yield engine


@pytest.fixture(scope="module")
def base(engine: Engine) -> Iterator[str]:
    """The address of the base image in a registry that needs no login."""
    with serving_registry() as registry:
        address = registry.name("base", "1")
        engine.push("base", address)
        yield address


@pytest.fixture(scope="module")
def private() -> Iterator[Registry]:
    with serving_registry(login=LOGIN) as registry:
        yield registry


def build(engine: Engine, tmp_path: Path, *lines: str) -> str:
    """Build the project's image here, as `--build local` does, and return its id."""
    dockerfile = "\n".join([DOCKERFILE.format(base="base"), *lines, ""])
    for name, text in {**PROJECT, "Dockerfile": dockerfile}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return engine.docker("build", "--quiet", tmp_path).strip()


def from_lines(testbed: Testbed, run_id: str, attempt: int) -> list[str]:
    return [line for line in testbed.log(run_id, attempt) if line.startswith("from")]


def interrupted_and_resumed(testbed: Testbed, run_id: str) -> int:
    """Interrupt the first attempt, wait for the run's end, and return the step between them."""
    testbed.wait_for_training(run_id)
    testbed.simulate_spot_interruption(run_id, attempt=1, notice_seconds=30)
    testbed.wait_for_training(run_id, attempt=2)
    step = testbed.attempts(run_id)[1].resume_step
    assert step, testbed.story(run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    testbed.verify_checkpoint_exists(run_id)
    testbed.wait_for_no_instance(run_id)
    return step


def test_example_of_the_roadmap_is_built_trains_is_interrupted_and_resumes(
    testbed: Testbed, new_name, base: str
) -> None:
    run_id = new_name()
    files = {**PROJECT, "Dockerfile": DOCKERFILE.format(base=base)}
    request = {
        "code": testbed.upload_project(files),
        "docker": {"dockerfile": "Dockerfile"},
        "env": {"LAST": "1"},
    }
    testbed.start(request, name=run_id)
    step = interrupted_and_resumed(testbed, run_id)
    assert from_lines(testbed, run_id, 1)[0].startswith("from 0 in /workspace")
    assert from_lines(testbed, run_id, 2)[0].startswith(f"from {step} in /workspace")
    image = testbed.run(run_id).image
    assert image is not None
    assert image.login == "ecr"
    assert image.reference.endswith(image.digest)
    # The same project again: its tag exists, so nothing is built.
    testbed.start({**request, "env": {"LAST": "0"}}, name=(again := new_name()))
    testbed.wait_for_training(again)
    assert testbed.run(again).image == image
    testbed.workflow.stop_run(testbed.workflow.execution_arn(again), cause="done")
    testbed.wait_for_no_instance(again)


SHARDS = """\
import os, signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
shard, attempt = int(os.environ["RUNCTL_SHARD"]), os.environ["RUNCTL_ATTEMPT"]
print("shard", shard, "in", os.getcwd(), os.environ["VERSION"], flush=True)
while shard >= 2 and attempt == "1":
    time.sleep(0.1)
(source,) = filter(Path.is_file, Path(os.environ["RUNCTL_INPUT_DIR"]).rglob("*"))
Path(os.environ["RUNCTL_OUTPUT_DIR"], source.name).write_text(source.read_text().upper())
"""


def processed(testbed: Testbed, run_id: str, attempt: int) -> list[str]:
    """Return the shards that an attempt has begun, in the image of the project."""
    said = [line.split() for line in testbed.log(run_id, attempt) if line.startswith("shard ")]
    return sorted(words[1] for words in said if words[-1] == "one")


def test_shards_are_processed_in_containers_through_an_interruption(
    testbed: Testbed, new_name, base: str
) -> None:
    run_id, bucket, client = new_name(), testbed.deployment.bucket, testbed.clients.get("s3")
    for number in range(4):
        client.put_object(Bucket=bucket, Key=f"inputs/{run_id}/{number}", Body=b"n%d" % number)
    files = {"Dockerfile": f"FROM {base}\nENV VERSION=one\n", "shards.py": SHARDS}
    output = f"s3://{bucket}/outputs/{run_id}/"
    source = f"s3://{bucket}/inputs/{run_id}/"
    request = {
        "kind": "process",
        "code": testbed.upload_project(files),
        "script": "shards.py",
        "docker": {"dockerfile": "Dockerfile"},
        "process": {"input": source, "output": output, "workers": 2},
    }
    testbed.start(request, name=run_id)
    wait_for(lambda: processed(testbed, run_id, 1) == ["0", "1", "2", "3"], "the shards that wait")
    testbed.simulate_spot_interruption(run_id, attempt=1, notice_seconds=30)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"outputs/{run_id}/")["Contents"]
    names = {item["Key"].rpartition("/")[2] for item in listed}
    assert names == {"_index.jsonl", "_run.json", "0", "1", "2", "3"}
    key = f"outputs/{run_id}/3"
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"N3"
    assert processed(testbed, run_id, 2) == ["2", "3"]
    testbed.wait_for_no_instance(run_id)


def test_image_without_a_registry_is_sent_to_the_machine_and_resumes(
    testbed: Testbed, new_name, engine: Engine, tmp_path: Path
) -> None:
    run_id = new_name()
    image = build(engine, tmp_path)
    engine.docker("tag", image, "sent:1")
    path = engine.folder / "sent.tar"
    engine.docker("save", "--output", path, "sent:1")
    key = f"code/images/{run_id}.tar"
    bucket = testbed.deployment.bucket
    with path.open("rb") as body:
        testbed.clients.get("s3").put_object(Bucket=bucket, Key=key, Body=body)
    path.unlink()
    docker = {"archive": f"s3://{bucket}/{key}"}
    testbed.start({"docker": docker, "env": {"LAST": "1"}}, name=run_id)
    step = interrupted_and_resumed(testbed, run_id)
    assert from_lines(testbed, run_id, 2)[0].startswith(f"from {step} in /workspace")
    recorded = testbed.run(run_id).image
    assert recorded is not None
    assert recorded.digest == image


def test_image_of_a_private_registry_is_the_same_in_every_attempt_although_its_tag_moves(
    testbed: Testbed, new_name, engine: Engine, private: Registry, tmp_path: Path
) -> None:
    run_id = new_name()
    address = private.name(run_id)
    first = engine.push(build(engine, tmp_path, "ENV VERSION=one"), address, login=LOGIN)
    secret = f"e2e/{run_id}"
    testbed.clients.get("secretsmanager").create_secret(
        Name=secret, SecretString=json.dumps({"username": LOGIN[0], "password": LOGIN[1]})
    )
    docker = {"image": address, "login": f"secret:{secret}"}
    testbed.start({"docker": docker, "env": {"LAST": "1"}}, name=run_id)
    testbed.wait_for_training(run_id)
    second = engine.push(build(engine, tmp_path, "ENV VERSION=two"), address, login=LOGIN)
    assert second != first
    interrupted_and_resumed(testbed, run_id)
    assert [from_lines(testbed, run_id, number)[0].split()[-1] for number in (1, 2)] == [
        "one",
        "one",
    ]
    recorded = testbed.run(run_id).image
    assert recorded is not None
    assert recorded.digest == first
    assert LOGIN[1] not in "\n".join(testbed.log(run_id, 1))


def test_failed_login_ends_the_run_with_the_remedy(
    testbed: Testbed, new_name, engine: Engine, private: Registry
) -> None:
    run_id = new_name()
    address = private.name(run_id)
    engine.push("base", address, login=LOGIN)
    testbed.start({"docker": {"image": address}}, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED"
    assert "give a login (--docker-login secret:NAME)" in testbed.run(run_id).reason
    testbed.wait_for_no_instance(run_id)
