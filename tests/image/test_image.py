"""The container image, built and run by a real engine: there the local cloud runs everywhere."""

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from runctl import __version__
from stacks.assets import build_agent, build_functions
from stacks.settings import PROJECT
from tests.docker_engine import Engine, needs_engine, serving_engine

PARTS = PROJECT / "build/image"
DEVELOPMENT = json.loads((PROJECT / ".devcontainer/devcontainer.json").read_text())
# The base image of the tests has the packages and downloads; the registries cannot be reached.
OFFLINE = {
    "BASE": "base",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/srv/wheels",
    "npm_config_offline": "true",
    "npm_config_cache": "/srv/npm",
}
SESSION = """
set -e
mkdir -p .local/state/runctl/cdk
ln -s /build .local/state/runctl/cdk/build
mkdir project
cd project
runctl local up >&2
echo 'print("hello")' > train.py
runctl --json --local aws train train.py
runctl local down >&2
"""

# All of aws-cdk-lib is compiled in the first build, which takes minutes on a busy machine.
pytestmark = [
    needs_engine,
    pytest.mark.skipif(
        not (PARTS / "base.tar").exists() and not os.environ.get("CI"),
        reason="no base image: `make test` as root makes it",
    ),
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def base(engine: Engine) -> list[str]:
    """The options of a build that needs no network."""
    engine.docker("import", PARTS / "base.tar", "debian")
    context = engine.folder / "context"
    for part in ("wheels", "npm"):
        shutil.copytree(PARTS / part, context / part)
    (context / "Dockerfile").write_text("FROM debian\nCOPY wheels /srv/wheels\nCOPY npm /srv/npm\n")
    engine.docker("build", "--tag", "base", context)
    shutil.rmtree(context)
    arguments = [f"--build-arg={name}={value}" for name, value in OFFLINE.items()]
    return ["--network", "none", *arguments]


@pytest.fixture(scope="module")
def development(engine: Engine, base: list[str]) -> str:
    """The image of the development container."""
    build, tag = DEVELOPMENT["build"], "runctl-development"
    folder = PROJECT / ".devcontainer"
    where = ["--file", folder / build["dockerfile"], folder / build["context"]]
    engine.docker("build", "--tag", tag, "--target", build["target"], *base, *where)
    return tag


@pytest.fixture(scope="module")
def image(engine: Engine, base: list[str], development: str) -> str:
    """The image that `docker build` makes."""
    engine.docker("build", "--tag", "runctl", *base, PROJECT)
    return "runctl"


def test_the_development_container_has_what_make_needs(engine: Engine, development: str) -> None:
    mount = f"{PROJECT}:/checkout:ro"
    command = ["run", "--rm", "--network", "none", "--volume", mount, "--workdir", "/checkout"]
    program = f"make --dry-run {DEVELOPMENT['postCreateCommand'].removeprefix('make ')} >&2; "
    program += "git --version >&2; python3 -m venv /tmp/venv; node --version; npm --version"
    node, npm = engine.docker(*command, development, "bash", "-ec", program).split()
    assert (node.startswith("v24."), npm.count(".")) == (True, 2)


def test_the_image_has_this_version_and_the_cdk(engine: Engine, image: str) -> None:
    run = ["run", "--rm", "--network", "none", image]
    assert engine.docker(*run, "runctl", "--version").split() == ["runctl", __version__]
    wanted = json.loads((PROJECT / "package.json").read_text())["dependencies"]["aws-cdk"]
    assert engine.docker(*run, "cdk", "--version").startswith(f"{wanted} ")


def test_a_run_is_trained_on_the_local_cloud_of_a_container(engine: Engine, image: str) -> None:
    for asset in (build_agent(), build_functions()):
        assert asset.path.exists()
    build = engine.folder / "build"
    build.mkdir()
    for wheels in (PROJECT / "build").glob("wheels-*"):
        shutil.copytree(wheels, build / wheels.name)
    # As the image's user, who has another number than ours.
    for path in (build, *build.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    volume = f"{build}:/build"
    # Only the loopback interface, which the local cloud serves on.
    run = ["run", "--rm", "--network", "none", "--volume", volume, image]
    run_document = json.loads(engine.docker(*run, "bash", "-c", SESSION))
    assert run_document["status"] == "completed"
