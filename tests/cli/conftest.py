"""A deployment on a moto server for this folder's tests, and the program as a real process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runctl.cli.main import app
from tests.cli.deployed import Deployed
from tests.moto_server import serving

CLEAN = ("AWS_", "RUNCTL_", "COLUMNS", "NO_COLOR", "FORCE_COLOR")

# The program itself, only with a shorter polling interval. Ctrl-C works even if the tests run in a
# shell's background, where it is ignored. SIGUSR1 prints the stacks of all threads.
IMPATIENT = (
    "import faulthandler, signal; faulthandler.register(signal.SIGUSR1); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from runctl.cli import cloud, main; cloud.POLL_SECONDS = 0.1; main.main()"
)


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict:
        """The one document on stdout."""
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
def deployed(moto_server: str) -> Deployed:
    """A fresh deployment."""
    return Deployed(moto_server).deploy_anew()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A clean folder, which becomes the current one, and a clean environment."""
    for name in list(os.environ):
        if name.startswith(CLEAN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("RUNCTL_LOCAL_HOME", str(tmp_path / "local-cloud"))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def project(environment: Path) -> Path:
    """A small project with a script."""
    (environment / "train.py").write_text("print('training')\n")
    (environment / ".runctl.toml").write_text("")
    return environment


@pytest.fixture
def runctl(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Run a command in this process, against the test's deployment if there is one."""
    if "deployed" in request.fixturenames:
        for name, value in request.getfixturevalue("deployed").environment().items():
            monkeypatch.setenv(name, value)

    def run(*words: str, env: dict[str, str] | None = None) -> Done:
        done = CliRunner().invoke(app, list(words), env=env)
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


class Process:
    """A command as a real process, whose output lines can be awaited."""

    def __init__(self, words: tuple[str, ...], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        self._lines: list[str] = []
        self._new = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stderr:
            with self._new:
                self._lines.append(line.rstrip("\n"))
                self._new.notify_all()

    def wait_for(self, text: str, *, seconds: float = 120) -> str:
        """Wait until stderr has a line with `text`, and return the line."""
        with self._new:
            found = self._new.wait_for(
                lambda: next((line for line in self._lines if text in line), None), seconds
            )
        if not found:
            ended = self._process.poll()
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            seen = self._lines if ended is None else [*self._lines, self._process.stdout.read()]
            pytest.fail(f"no {text!r}, exit code {ended}, in {seen}")
        return found

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def finish(self, *, seconds: float = 120) -> Done:
        """Wait for the end."""
        code = self._process.wait(seconds)
        stdout = self._process.stdout.read()
        self._reader.join(seconds)
        self.close()
        return Done(code, stdout, "\n".join(self._lines))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()


@pytest.fixture
def start_runctl(request: pytest.FixtureRequest):
    """Start a command as a process; it ends with the test."""
    env = {}
    if "deployed" in request.fixturenames:
        env = request.getfixturevalue("deployed").environment()

    @contextmanager
    def start(*words: str) -> Iterator[Process]:
        process = Process(words, {**env, "PYTHONPATH": str(Path(__file__).parents[2])})
        try:
            yield process
        finally:
            process.close()

    return start


@pytest.fixture
def machine(deployed):
    """Launch an instance with tags."""
    ec2 = deployed.clients.get("ec2")

    def launch(**tags: str) -> str:
        (image, *_) = ec2.describe_images()["Images"]
        answer = ec2.run_instances(
            ImageId=image["ImageId"],
            InstanceType="m5.large",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ]
            if tags
            else [],
        )
        return answer["Instances"][0]["InstanceId"]

    return launch
