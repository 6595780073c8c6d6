"""The wheel, built from this checkout and installed where the checkout is out of sight."""

import os
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacks.assets import build_agent, build_functions
from stacks.settings import PROJECT

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel, and a user's home folder."""

    environment: Path
    home: Path

    @property
    def project(self) -> Path:
        """The user's project, in which commands are run."""
        return self.home / "project"

    @property
    def cdk_folder(self) -> Path:
        """The folder in which an installed runctl runs the CDK."""
        return self.home / ".local/state/runctl/cdk"

    def run(self, *words: str, code: int = 0, **variables: str) -> str:
        """Run a program of the environment in the user's project and return its stdout."""
        node = PROJECT / "node_modules/.bin"
        kept = {name: value for name, value in os.environ.items() if name in {"LANG", "PIP_CERT"}}
        done = subprocess.run(
            [self.environment / "bin" / words[0], *words[1:]],
            cwd=self.project,
            env={
                **kept,
                "HOME": str(self.home),
                "PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}:{node}",
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PROJECT],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("runctl-*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in an environment of its own, with the libraries of this one.

    Their folder is named in a .pth file; the .pth files in that folder, by which it would find the
    checkout, are not read.
    """
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    install = [BIN / "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
    subprocess.run([*install, "--python", python, wheel], check=True)
    (own,) = environment.glob("lib/python3*/site-packages")
    (own / "libraries.pth").write_text("".join(f"{each}\n" for each in site.getsitepackages()))
    installation = Installation(environment, tmp_path_factory.mktemp("home"))
    installation.project.mkdir()
    # What the assets are made of has been downloaded; the tests ask no index.
    build_agent()
    build_functions()
    build = installation.cdk_folder / "build"
    build.mkdir(parents=True)
    for wheels in (PROJECT / "build").glob("wheels-*"):
        (build / wheels.name).symlink_to(wheels)
    return installation
