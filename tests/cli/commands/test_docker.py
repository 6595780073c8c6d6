"""Containers on the command line: which image a run uses, and builds by this machine's Docker."""

import gzip
import json
import subprocess
import tarfile

import pytest

from tests.cli.deployed import BUCKET
from tests.docker_engine import needs_engine, needs_registry, serving_engine, serving_registry

DOCKERFILE = 'FROM busybox\nCOPY . .\nCMD ["python", "training/train.py"]\n'
INSTANCE = "i-0123456789abcdef0"
PLACES = ["Dockerfile", "Dockerfile.train", "docker/Dockerfile", "training/Dockerfile"]


@pytest.fixture
def training(project):
    """The roadmap's project."""
    (project / "training").mkdir()
    (project / "training/train.py").write_text("print('trained')\n")
    return project


def write(project, place, text=DOCKERFILE):
    path = project / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def planned(runctl, *words):
    done = runctl("aws", "train", "--dry-run", "--json", *words)
    assert done.code == 0, done.stderr
    return done.document["request"]


def refused(runctl, *words):
    done = runctl("aws", "train", "--dry-run", *words)
    assert done.code == 2, done.stderr
    return done.stderr


def test_both_commands_of_the_roadmap_work_as_printed(training, deployed, runctl):
    write(training, "Dockerfile")
    built = planned(runctl, INSTANCE, "training/train.py", "--use-docker")
    assert built["instance_id"] == INSTANCE
    assert built["script"] == "training/train.py"
    assert built["docker"] == {"dockerfile": "Dockerfile"}
    assert "args" not in built
    given = "my-registry/train:latest"
    pulled = planned(runctl, INSTANCE, "training/train.py", "--docker-image", given)
    assert pulled["docker"] == {"image": given}
    assert "args" not in pulled


DATA = ("--input-s3", "s3://data/raw/", "--output-s3", "s3://data/clean/")


@pytest.mark.parametrize(
    ("options", "docker"),
    [
        ((), {"dockerfile": "Dockerfile"}),
        (("--use-docker",), {"dockerfile": "Dockerfile"}),
        (("--docker-image", "a/b"), {"image": "a/b"}),
        (("--no-docker",), None),
    ],
)
def test_data_is_processed_in_the_image_that_a_training_would_have(
    training, deployed, runctl, options, docker
):
    write(training, "Dockerfile")
    deployed.put_data("s3://data/raw/")
    words = (*DATA, *options, "training/train.py")
    done = runctl("aws", "process", "--dry-run", "--json", *words)
    assert done.code == 0, done.stderr
    assert done.document["request"].get("docker") == docker
    if docker:  # the roadmap's form
        after = planned(runctl, *options, "training/train.py", *DATA)
        assert (after["kind"], after["docker"]) == ("process", docker)


def test_other_words_after_the_script_are_its_own_and_so_is_everything_after_two_dashes(
    training, deployed, runctl
):
    words = ["training/train.py", "--lr", "1", "--docker-image=a/b", "--", "--use-docker"]
    request = planned(runctl, *words)
    assert request["args"] == ["--lr", "1", "--", "--use-docker"]
    assert request["docker"] == {"image": "a/b"}


def test_a_command_keeps_all_of_its_words(training, deployed, runctl):
    request = planned(runctl, "--command", "./launch", "--docker-image", "a/b")
    assert request["command"] == ["./launch", "--docker-image", "a/b"]


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_a_dockerfile_is_found_in_the_usual_places_in_their_order(
    training, deployed, runctl, number
):
    for place in PLACES[number:]:
        write(training, place)
    assert planned(runctl, "training/train.py")["docker"] == {"dockerfile": PLACES[number]}
    assert "docker" not in planned(runctl, "--no-docker", "training/train.py")


def test_a_dockerfile_elsewhere_is_named(training, deployed, runctl):
    write(training, "Dockerfile")
    write(training, "images/gpu.dockerfile", "FROM a AS run\nCMD x\n")
    words = ["--dockerfile", "images/gpu.dockerfile", "--docker-target", "run"]
    request = planned(runctl, *words, "--build-arg", "CUDA=12", "training/train.py")
    assert request["docker"] == {
        "dockerfile": "images/gpu.dockerfile",
        "target": "run",
        "build_args": {"CUDA": "12"},
    }


def test_an_image_given_as_an_option_needs_nothing_of_the_build_in_the_settings(
    training, deployed, runctl
):
    write(training, "Dockerfile")
    (training / ".runctl.toml").write_text(
        '[docker]\ndockerfile = "Dockerfile"\n[docker.build_args]\nCUDA = "12"\n'
    )
    built = planned(runctl, "--build-arg", "PYTHON=3.12", "training/train.py")
    assert built["docker"]["build_args"] == {"CUDA": "12", "PYTHON": "3.12"}
    pulled = planned(runctl, "--docker-image", "a/b:v1", "training/train.py")
    assert pulled["docker"] == {"image": "a/b:v1"}


def test_without_a_script_the_command_of_the_image_runs(training, deployed, runctl):
    write(training, "Dockerfile")
    request = planned(runctl)
    assert "script" not in request
    assert request["docker"] == {"dockerfile": "Dockerfile"}
    # Nothing has to be packed for an image that exists.
    assert planned(runctl, "--docker-image", "a/b:v1") == {"docker": {"image": "a/b:v1"}}


def test_an_option_replaces_the_image_of_the_settings(training, deployed, runctl):
    (training / ".runctl.toml").write_text('[docker]\nimage = "a/b"\nlogin = "secret:hub"\n')
    login = {"login": "secret:hub"}
    assert planned(runctl, "training/train.py")["docker"] == {"image": "a/b", **login}
    write(training, "other")
    request = planned(runctl, "--dockerfile", "other", "training/train.py")
    assert request["docker"] == {"dockerfile": "other", **login}
    assert "docker" not in planned(runctl, "--no-docker", "training/train.py")


def test_types_of_the_other_platform_are_named(training, deployed, runctl):
    write(training, "Dockerfile")
    words = ["--instance-types", "m7g.large,m5.large,c5.large", "training/train.py"]
    done = runctl("aws", "train", "--dry-run", *words)
    assert "m7g.large left out, because the image is built for linux/amd64" in done.stderr


BAD = {
    "no Dockerfile": (["train.py", "--use-docker"], "--use-docker: the project has no Dockerfile"),
    "no such Dockerfile": (["--dockerfile", "x", "train.py"], "--dockerfile: 'x' does not exist"),
    "a Dockerfile outside": (["--dockerfile", "/etc/hosts", "train.py"], "is outside the project"),
    "both": (["--use-docker", "--no-docker", "train.py"], "mutually exclusive with --use-docker"),
    "none of one": (["--no-docker", "--docker-image", "a", "train.py"], "not allowed with an im"),
    "an image": (["--docker-image", "A B", "train.py"], "--docker-image: 'A B' is not a valid"),
    "no image": (["train.py", "--docker-image"], "--docker-image: needs an image"),
    "a script in S3": (["s3://bucket/t.py", "--use-docker"], "a script in S3 has no project"),
    "a place": (["--build", "moon", "train.py"], "--build: 'moon' is not a place"),
    "no build": (["--build", "local", "train.py"], "--build: the project has no Dockerfile"),
    "no push in the cloud": (["--no-push", "train.py"], "--no-push: only with --build local"),
    "no push to": (
        ["--build", "local", "--no-push", "--push-to", "a/b", "train.py"],
        "--push-to: mutually exclusive with --no-push",
    ),
    "nothing": ([], "SCRIPT: missing; name the program"),
    "an instance only": ([INSTANCE], f"SCRIPT: missing after {INSTANCE}"),
    "a secret": (
        ["--docker-image", "a", "--docker-login", "me:pass", "train.py"],
        "--docker-login: is not a reference",
    ),
}


@pytest.mark.parametrize(("words", "expected"), BAD.values(), ids=BAD.keys())
def test_what_contradicts_itself_is_refused(project, deployed, runctl, words, expected):
    assert expected in refused(runctl, *words)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("FROM scratch\n", [], "Dockerfile has neither CMD nor ENTRYPOINT"),
        ("RUN x\n", ["train.py"], "Dockerfile: it has no FROM instruction"),
        (
            "FROM a AS b\nCMD x\n",
            ["--docker-target", "c", "train.py"],
            "--docker-target: Dockerfile has no stage 'c'; its stages: b",
        ),
        (
            DOCKERFILE,
            ["--build-arg", "HF_TOKEN=hf_abcdefghijklmnopqrstuvwx", "train.py"],
            "--build-arg HF_TOKEN: the value looks like a secret",
        ),
    ],
)
def test_a_dockerfile_that_cannot_be_used_is_refused_before_an_upload(
    project, deployed, runctl, text, words, expected
):
    write(project, "Dockerfile", text)
    message = refused(runctl, *words)
    assert expected in message
    assert "hf_abc" not in message


@pytest.fixture(scope="module")
def engine():
    with serving_engine() as running:
        running.import_base("busybox", "busybox")
        yield running


@pytest.fixture
def docker(engine, monkeypatch):
    """The engine as the one of this machine."""
    for name, value in engine.environment().items():
        monkeypatch.setenv(name, value)
    return engine


MULTI_STAGE = """\
FROM busybox AS builder
ARG WORDS
RUN head -c 3000000 /dev/zero > /padding && echo "$WORDS" > /words
FROM busybox
COPY --from=builder /words /words
COPY train.py .
CMD ["cat", "/words"]
"""


@needs_engine
def test_a_project_is_built_by_the_docker_of_this_machine(project, docker, runctl):
    write(project, "Dockerfile", MULTI_STAGE)
    (project / ".runctl.toml").write_text('[docker.build_args]\nWORDS = "two words"\n')
    done = runctl("docker", "build", "--json")
    assert done.code == 0, done.stderr
    name = done.document["image"]
    assert name.startswith("runctl:amd64-")
    assert docker.docker("run", "--rm", "--network", "none", name) == "two words\n"
    assert runctl("docker", "build", "--json").document == done.document
    sizes = [int(docker.docker("image", "inspect", "-f", "{{.Size}}", name))]
    docker.docker("build", "--target", "builder", "--tag", "builder", str(project))
    sizes.append(int(docker.docker("image", "inspect", "-f", "{{.Size}}", "builder")))
    assert sizes[0] + 2_000_000 < sizes[1]


@needs_engine
def test_an_image_is_sent_without_a_registry(project, deployed, docker, runctl, tmp_path):
    write(project, "Dockerfile", 'FROM busybox\nCOPY train.py /\nCMD ["cat", "/train.py"]\n')
    words = ("aws", "train", "--detach", "--json", "--build", "local", "--no-push")
    done = runctl(*words, "--name", "sent")
    assert done.code == 0, done.stderr
    request = deployed_request(deployed, "sent")
    (source,) = request["docker"].items()
    assert source[0] == "archive"
    key = source[1].removeprefix(f"s3://{BUCKET}/")
    assert key.startswith("code/images/")
    deployed.clients.get("s3").download_file(BUCKET, key, str(tmp_path / "image.tar.gz"))
    with gzip.open(tmp_path / "image.tar.gz") as packed, tarfile.open(fileobj=packed) as archive:
        assert "manifest.json" in archive.getnames()
    again = runctl(*words, "--name", "again")
    assert "the image is already uploaded" in again.stderr
    assert deployed_request(deployed, "again")["docker"] == request["docker"]


@needs_engine
@needs_registry
def test_an_image_is_pushed_to_another_registry_with_its_own_login(
    project, deployed, docker, runctl
):
    write(project, "Dockerfile", 'FROM busybox\nCOPY train.py /\nCMD ["cat", "/train.py"]\n')
    with serving_registry(login=("me", "word")) as registry:
        repository = registry.name("team/train").rpartition(":")[0]
        words = ("aws", "train", "--detach", "--json", "--build", "local", "--push-to", repository)
        denied = runctl(*words, "--name", "denied", "train.py")
        assert denied.code == 2
        assert "could not be pushed" in denied.stdout
        docker.docker("login", "-u", "me", "--password-stdin", registry.address, stdin="word")
        done = runctl(*words, "--name", "x", "--docker-login", "secret:hub", "train.py")
        assert done.code == 0, done.stderr
        image = deployed_request(deployed, "x")["docker"]["image"]
        assert image.startswith(f"{repository}@sha256:")
        assert deployed_request(deployed, "x")["docker"]["login"] == "secret:hub"
        docker.docker("pull", image)
    assert deployed.executions() == ["x"]


@needs_engine
def test_an_image_that_exists_is_not_pushed_again(project, deployed, docker, runctl):
    ecr = deployed.clients.get("ecr")
    made = ecr.create_repository(repositoryName="runctl-images")["repository"]
    held = deployed.clients.get("ssm").get_parameter(Name="/runctl/deployment")["Parameter"]
    values = json.loads(held["Value"])
    deployed.put_parameter(**{**values, "image_repository": made["repositoryUri"]})
    write(project, "Dockerfile")
    tag = runctl("docker", "build", "--json").document["image"].rpartition(":")[2]
    kind = "application/vnd.oci.image.manifest.v1+json"
    layers = [{"size": 5, "digest": "sha256:1"}]
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {}, "layers": layers}
    ecr.put_image(repositoryName="runctl-images", imageManifest=json.dumps(manifest), imageTag=tag)
    # Tags are immutable, so a push would be refused.
    again = runctl("docker", "build", "--push", "--json").document
    assert again["image"].startswith(f"{made['repositoryUri']}@sha256:")
    assert not again["pushed"]


@needs_engine
def test_a_build_that_fails_starts_nothing(project, deployed, docker, runctl):
    write(project, "Dockerfile", "FROM busybox\nRUN false\nCMD x\n")
    done = runctl("aws", "train", "--detach", "--build", "local", "--no-push", "train.py")
    assert done.code == 2
    assert "Dockerfile: the build failed with exit code 1" in done.stderr
    assert (deployed.executions(), deployed.objects()) == ([], [])


def test_a_machine_without_docker_is_told_so(project, deployed, runctl, monkeypatch, tmp_path):
    write(project, "Dockerfile")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = runctl("aws", "train", "--build", "local", "--no-push", "train.py")
    assert done.code == 2
    assert "needs Docker on this machine; install it, or build in the cloud" in done.stderr


def test_an_engine_that_does_not_answer_is_named(project, deployed, runctl, monkeypatch, tmp_path):
    write(project, "Dockerfile")
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    program.chmod(0o755)
    assert subprocess.run([program], capture_output=True, check=False).returncode == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    done = runctl("docker", "build")
    assert done.code == 2
    assert "Docker does not answer: Cannot connect to the Docker daemon; start it" in done.stderr


def deployed_request(deployed, name):
    arn = deployed.workflow.execution_arn(name)
    described = deployed.clients.get("stepfunctions").describe_execution(executionArn=arn)
    return json.loads(described["input"])
