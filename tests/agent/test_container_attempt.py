"""Whole attempts in containers, with a real agent, engine and registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.model.docker_options import DockerOptions
from runctl.model.image import Image
from runctl.model.trackers import wandb_run_id
from tests.agent.conftest import make_client
from tests.agent.machine import Cloud, Machine, wait_until
from tests.agent.test_stopping import files, said
from tests.agent.test_trackers import TRACKS, printed
from tests.docker_engine import (
    Engine,
    Registry,
    needs_engine,
    needs_registry,
    serving_engine,
    serving_registry,
)

pytestmark = [needs_engine, needs_registry, pytest.mark.slow]

# The login that moto's ECR gives for its account.
LOGIN = ("AWS", "123456789012-auth-token")
COUNTS = """
    import os, signal, sys, time
    from pathlib import Path
    from runctl import training
    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    steps = sorted(int(path.stem.partition("-")[2]) for path in root.glob("step-*.txt"))
    step = steps[-1] if steps else 0
    print("from", step, "in", os.getcwd(), "as", os.getuid(), os.environ.get("VERSION"), flush=True)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    last = int(os.environ.get("LAST", 1 << 30))
    while not asked and step < last:
        time.sleep(0.05)
        step += 1
    (root / f"step-{step}.txt").write_text("x")
    print("saved", step, flush=True)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving_engine() as engine:
        engine.import_base("python", "python")
        yield engine


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with serving_registry(login=LOGIN) as registry:
        yield registry


@pytest.fixture
def build(engine: Engine, tmp_path: Path) -> Callable[..., str]:
    """Build an image of a project and return its id."""

    def build_image(dockerfile: str, program: str = COUNTS, **files: str) -> str:
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        for name, text in {"Dockerfile": dockerfile, "train.py": program, **files}.items():
            (context / name).write_text(textwrap.dedent(text))
        return engine.docker("build", "--quiet", context).strip()

    return build_image


@pytest.fixture
def begin(cloud: Cloud, launch: Callable[..., Machine], engine: Engine) -> Callable[..., Machine]:
    """Begin an attempt of a run in a container."""

    def begin_attempt(
        number: int = 1, *, program: str = COUNTS, creates: bool = True, **request: Any
    ) -> Machine:
        if number == 1 and creates:
            cloud.create_run(program, **request)
        cloud.open_attempt(number)
        cloud.give_token(number)
        return launch(number, variables={"DOCKER_HOST": engine.host})

    return begin_attempt


def secret(cloud: Cloud, **value: str) -> str:
    """Store a login and return its reference."""
    client = make_client("secretsmanager", cloud.endpoint)
    client.create_secret(Name=f"{cloud.name}-login", SecretString=json.dumps(value))
    client.close()
    return f"secret:{cloud.name}-login"


def test_run_in_an_image_of_a_private_registry_resumes_in_the_same_image_after_its_tag_moved(
    cloud: Cloud,
    begin: Callable[..., Machine],
    build: Callable[..., str],
    engine: Engine,
    registry: Registry,
) -> None:
    address = registry.name(cloud.name, "latest")
    first = engine.push(build("FROM python\nENV VERSION=one\n"), address, login=LOGIN)
    docker = DockerOptions(image=address, login=secret(cloud, username=LOGIN[0], password=LOGIN[1]))
    machine = begin(docker=docker)
    wait_until(lambda: "from 0 in" in said(machine))
    project = machine.state / "project"
    assert f"from 0 in {project} as 0 one" in said(machine)
    recorded = cloud.run().image
    assert recorded is not None
    assert (recorded.digest, recorded.reference) == (
        first,
        f"{registry.address}/{cloud.name}@{first}",
    )
    machine.metadata.give_notice(60)
    assert cloud.outcome()["kind"] == "interrupted"
    step = cloud.run().step or 0
    assert files(cloud) == {f"step-{step}.txt": 1}
    assert LOGIN[1] not in machine.agent_log() + said(machine)
    second = engine.push(build("FROM python\nENV VERSION=two\n"), address, login=LOGIN)
    assert second != first
    other = begin(2)
    wait_until(lambda: f"from {step} in" in said(other))
    assert "as 0 one" in said(other)
    assert "pulling" not in said(other), "a machine that has the image pulls nothing"
    other.ask("stop")
    wait_until(lambda: cloud.tokens.reports[1:])
    assert not engine.docker("ps", "--all", "--quiet")


def test_image_of_ecr_is_pulled_with_a_token_that_the_agent_gets(
    cloud: Cloud,
    begin: Callable[..., Machine],
    build: Callable[..., str],
    engine: Engine,
    registry: Registry,
) -> None:
    """The image's own program runs in the image's folder, as the image's user."""
    dockerfile = """
        FROM python
        RUN echo trainer:x:1234:2345::/tmp:/bin/sh >> /etc/passwd
        WORKDIR /workspace
        COPY . .
        ENV VERSION=own
        USER trainer
        CMD ["python3", "train.py"]
    """
    image = build(dockerfile)
    address = registry.name(f"{cloud.name}-images", "abc")
    digest = engine.push(image, address, login=LOGIN)
    engine.docker("image", "rm", "--force", image)
    reference = address.replace(":abc", f"@{digest}")
    machine = begin(script="", code="", docker=DockerOptions(image=address), env={"LAST": "5"})
    # PrepareRun records an image of ECR before the first attempt.
    assert cloud.run().image is None
    machine.wait(240)
    assert cloud.outcome()["kind"] == "failed", "the registry needs a login"
    assert "the registry refuses" in cloud.outcome()["reason"]
    cloud.run_id = "run-2"
    cloud.tokens.reports.clear()
    cloud.create_run(
        COUNTS, script="", code="", docker=DockerOptions(image=address), env={"LAST": "5"}
    )
    cloud.ledger.record_image(
        "run-2", Image(reference=reference, digest=digest, login="ecr", platform="linux/amd64")
    )
    other = begin(2)
    assert cloud.outcome(120)["kind"] == "completed", cloud.outcome()
    assert "from 0 in /workspace as 1234 own" in said(other)
    assert files(cloud) == {"step-5.txt": 1}


def test_image_of_an_archive_is_loaded_without_a_registry(
    cloud: Cloud, begin: Callable[..., Machine], build: Callable[..., str], engine: Engine
) -> None:
    image = build("FROM python\nENV VERSION=saved\n")
    engine.docker("tag", image, "saved:1")
    path = engine.folder / "image.tar"
    engine.docker("save", "--output", path, "saved:1")
    key = "images/saved.tar.gz"
    body = gzip.compress(path.read_bytes(), 1)
    path.unlink()
    cloud.clients["s3"].put_object(Bucket=cloud.name, Key=key, Body=body)
    engine.docker("image", "rm", "--force", image)
    docker = DockerOptions(archive=f"s3://{cloud.name}/{key}")
    machine = begin(docker=docker, env={"LAST": "3"})
    assert cloud.outcome(120)["kind"] == "completed", cloud.outcome()
    assert "as 0 saved" in said(machine)
    recorded = cloud.run().image
    assert recorded is not None
    assert (recorded.digest, recorded.archive) == (image, docker.archive)


def test_agent_that_was_killed_leaves_no_container_and_the_next_one_trains(
    cloud: Cloud, begin: Callable[..., Machine], engine: Engine, registry: Registry
) -> None:
    address = registry.name(cloud.name)
    engine.push("python", address, login=LOGIN)
    docker = DockerOptions(image=address, login=secret(cloud, username=LOGIN[0], password=LOGIN[1]))
    machine = begin(docker=docker)
    wait_until(lambda: "from 0 in" in said(machine))
    (left,) = engine.docker("ps", "--quiet", "--no-trunc").split()
    machine.kill_agent()
    assert engine.docker("ps", "--quiet", "--no-trunc").split() == [left]
    machine.start()
    wait_until(lambda: said(machine).count("from 0 in") == 2)
    assert left not in engine.docker("ps", "--all", "--quiet", "--no-trunc").split()
    assert "removed 1 containers that an earlier agent left" in machine.agent_log()
    machine.ask("stop")
    assert cloud.outcome()["kind"] == "stopped"


def test_trackers_have_the_same_ids_and_folder_in_the_containers_of_all_attempts(
    cloud: Cloud, begin: Callable[..., Machine], build: Callable[..., str]
) -> None:
    """The image is on the machine, as after an earlier attempt; its own variables stay."""
    archive = "s3://images/own.tar.gz"
    image = build("FROM python\nENV WANDB_RESUME=must\nUSER 1234:2345\n")
    cloud.create_run(TRACKS, docker=DockerOptions(archive=archive))
    cloud.ledger.record_image("run-1", Image(reference="", digest=image, archive=archive))
    first = begin(1, creates=False)
    wait_until(lambda: printed(first))
    wait_until(lambda: cloud.run().mlflow_run == "abc123")
    first.metadata.give_notice(seconds=60)
    assert cloud.outcome(120)["kind"] == "interrupted"
    first.wait()
    second = begin(2)
    wait_until(lambda: len(cloud.tokens.reports) == 2, why=second.agent_log())
    second.wait()
    (nothing, before), (curves, after) = printed(first), printed(second)
    assert (nothing, curves) == ([], ["events.1"])
    assert (before.pop("MLFLOW_RUN_ID"), after.pop("MLFLOW_RUN_ID")) == (None, "abc123")
    folders = [
        Path(each.pop("RUNCTL_TENSORBOARD_DIR")).relative_to(machine.root)
        for each, machine in ((before, first), (after, second))
    ]
    assert folders[0] == folders[1]
    assert before == after == {"WANDB_RUN_ID": wandb_run_id(cloud.run()), "WANDB_RESUME": "must"}
    stored = cloud.keys("runs/run-1/outputs/tensorboard/")
    assert [key.rpartition("/")[2] for key in stored] == ["events.1", "events.2"]


def test_credentials_of_the_run_are_served_in_the_container_and_the_agents_are_not(
    cloud: Cloud, begin: Callable[..., Machine], engine: Engine, registry: Registry
) -> None:
    program = """
        import json, os, urllib.request
        request = urllib.request.Request(
            os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
            headers={"Authorization": os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]},
        )
        with urllib.request.urlopen(request) as answer:
            print("credentials", sorted(json.load(answer)), flush=True)
        names = [name for name in os.environ if name.startswith(("AWS_", "RUNCTL_", "DOCKER_"))]
        print("names", *sorted(names), flush=True)
        print("host", os.environ.get("HOME"), os.environ["PATH"], flush=True)
    """
    address = registry.name(cloud.name)
    engine.push("python", address, login=LOGIN)
    docker = DockerOptions(image=address, login=secret(cloud, username=LOGIN[0], password=LOGIN[1]))
    machine = begin(program=program, docker=docker, credentials="run")
    assert cloud.outcome(120)["kind"] == "completed", cloud.outcome()
    lines = dict(line.split(" ", 1) for line in said(machine).splitlines() if " " in line)
    assert lines["credentials"] == "['AccessKeyId', 'Expiration', 'SecretAccessKey', 'Token']"
    names = set(lines["names"].split())
    assert not {"AWS_EC2_METADATA_SERVICE_ENDPOINT", "DOCKER_HOST", "DOCKER_CONFIG"} & names
    assert "RUNCTL_TABLE" not in names
    assert str(machine.root) not in lines["host"]


def foreign_image(folder: Path, name: str) -> Path:
    """Write an archive with an image of another architecture, which this engine could not build."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = {"architecture": "s390x", "os": "linux", "config": {}, "rootfs": rootfs}
    manifest = [{"Config": "c.json", "RepoTags": [f"{name}:latest"], "Layers": ["layer.tar"]}]
    texts = {"c.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    path = folder / f"{name}.tar"
    with tarfile.open(path, "w") as archive:
        for member, content in {**texts, "layer.tar": layer.getvalue()}.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


BAD = {
    "missing image": (
        "no-such-image",
        "",
        {},
        "the registry refuses",  # a registry with logins says nothing about what it does not have
    ),
    "wrong password": ("python", "wrong", {}, "does not accept the login in secret:"),
    "no python": ("busybox", LOGIN[1], {}, "has neither python nor python3 on its PATH"),
    "no program": (
        "bare",
        LOGIN[1],
        {"script": "", "code": ""},
        "the image has neither CMD nor ENTRYPOINT",
    ),
    "another platform": ("foreign", LOGIN[1], {}, "is for linux/s390x, but this machine is linux/"),
}


@pytest.mark.parametrize("case", BAD)
def test_image_that_cannot_be_run_fails_with_the_reason_and_the_remedy(
    cloud: Cloud,
    begin: Callable[..., Machine],
    engine: Engine,
    registry: Registry,
    tmp_path: Path,
    case: str,
) -> None:
    name, password, request, words = BAD[case]
    address = registry.name(f"{cloud.name}-{name}")
    if name in {"busybox", "python"}:
        engine.import_base(name, name)
    if name == "bare":
        (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        engine.docker("build", "--tag", name, tmp_path)
    if name == "foreign":
        engine.docker("load", "--input", foreign_image(tmp_path, name))
    if name != "no-such-image":
        engine.push(name, address, login=LOGIN)
    login = secret(cloud, username=LOGIN[0], password=password) if password else ""
    begin(docker=DockerOptions(image=address, login=login), **request)
    outcome = cloud.outcome(120)
    assert outcome["kind"] == "failed"
    assert words in outcome["reason"]


def test_machine_without_an_engine_fails_with_the_remedy(
    cloud: Cloud, launch: Callable[..., Machine], tmp_path: Path
) -> None:
    cloud.create_run(COUNTS, docker=DockerOptions(image="python:3"))
    cloud.open_attempt()
    cloud.give_token()
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "env"):
        (tools / tool).symlink_to(f"/bin/{tool}")
    launch(variables={"DOCKER_HOST": f"unix://{tmp_path}/none", "PATH": str(tools)})
    outcome = cloud.outcome(120)
    assert outcome["kind"] == "failed"
    assert "the machine has no running Docker engine: systemctl cannot be run" in outcome["reason"]
    assert "neither apt-get nor dnf" in outcome["reason"]
    assert "apt-get install docker.io" in outcome["reason"]
