"""What the application needs of a machine: found, installed, or asked for by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runctl import application
from runctl.application import Application, find_cdk, open_application
from runctl.model.errors import SetupError
from stacks.settings import PROJECT

PATH = os.environ["PATH"]
NPM_CACHE = PROJECT / "build/image/npm"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    """An application as a wheel has it, for a machine without the CDK."""
    package = tmp_path / "site-packages/runctl"
    sources = package / "cdk_app"
    sources.mkdir(parents=True)
    for name in ("cdk.json", "package.json", "package-lock.json"):
        shutil.copy(PROJECT / name, sources)
    monkeypatch.setattr(application, "__file__", str(package / "application.py"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return open_application()


def provide(*programs: str) -> None:
    """Put programs of this machine onto the PATH."""
    for program in programs:
        real = shutil.which(program, path=PATH)
        assert real
        (Path(os.environ["PATH"]) / program).symlink_to(Path(real).resolve())


def test_a_checkout_is_the_application_and_its_folder() -> None:
    assert open_application() == Application(PROJECT, PROJECT)


@pytest.mark.parametrize(("programs", "missing"), [((), "node"), (("node",), "npm")])
def test_what_is_missing_is_named(installed: Application, programs, missing) -> None:
    provide(*programs)
    with pytest.raises(SetupError, match=f"^{missing} is not on the PATH: install Node.js"):
        find_cdk(installed)


def test_what_npm_said_is_shown_when_it_fails(
    installed: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide("node", "npm", "sh", "env")
    monkeypatch.setenv("npm_config_offline", "true")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "nothing"))
    with pytest.raises(SetupError, match=r"npm cannot install the AWS CDK into .*cdk-2"):
        find_cdk(installed)


@pytest.mark.skipif(
    not NPM_CACHE.exists() and not os.environ.get("CI"),
    reason="no npm packages to install from: `make test` as root fetches them",
)
def test_npm_installs_the_locked_version_once(
    installed: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide("node", "npm", "sh", "env")
    shutil.copytree(NPM_CACHE, tmp_path / "cache")
    monkeypatch.setenv("npm_config_offline", "true")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    command = find_cdk(installed)
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert f"cdk-{said.stdout.split()[0]}" in command
    shutil.rmtree(tmp_path / "cache")
    assert find_cdk(installed) == command


@pytest.mark.parametrize("extra", ["deploy", "local"])
def test_an_optional_dependency_that_is_missing_is_named(extra: str) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        f"from runctl.application import require_extra\nrequire_extra({extra!r})"
    )
    bare = [sys.executable, "-I", "-S", "-c", program]  # without site-packages
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert f"SetupError: the optional dependency `{extra}` of runctl is not" in done.stderr
    assert done.stderr.rstrip().endswith(f"install runctl[{extra}]")
