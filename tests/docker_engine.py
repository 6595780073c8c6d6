"""A Docker engine and registries of their own, without a network, gone after the tests."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from runctl.local.codebuild.engine import BuildEngine
from tests import base_images

START_SECONDS = 30
# It needs mounts and control groups, which only root may make.
CAN_RUN = os.geteuid() == 0 and shutil.which("dockerd") is not None
HAS_REGISTRY = shutil.which("docker-registry") is not None

needs_engine = pytest.mark.skipif(
    not CAN_RUN and not os.environ.get("CI"),
    reason="no Docker engine: `make test` as root installs it, or apt-get install docker.io",
)
needs_registry = pytest.mark.skipif(
    not HAS_REGISTRY and not os.environ.get("CI"),
    reason="no registry: `make test` as root installs it, or apt-get install docker-registry",
)
# A bcrypt salt: its cost, the least that is permitted, and 22 characters of its alphabet.
_SALT = b"$2y$04$abcdefghijklmnopqrstuu"
_ADDRESS = re.compile(r"listening on (127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class Engine:
    """A running engine; containers have no network of their own, but may share the machine's."""

    folder: Path

    @property
    def host(self) -> str:
        """The value of DOCKER_HOST for this engine."""
        return f"unix://{self.folder / 'engine/s'}"

    def environment(self) -> dict[str, str]:
        """Return the variables with which the client uses this engine and nothing of the user's."""
        return {
            "PATH": os.environ["PATH"],
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.folder / "client"),
            # BuildKit needs a plugin that Debian's client comes without.
            "DOCKER_BUILDKIT": "0",
        }

    def attempt(
        self, *words: str | Path, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the client against this engine, whatever comes of it."""
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            ["docker", *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            **given,
        )

    def docker(self, *words: str | Path, code: int = 0, stdin: str | None = None) -> str:
        """Run the client against this engine and return its stdout."""
        done = self.attempt(*words, stdin=stdin)
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def import_base(self, name: str, tag: str) -> str:
        """Import a base image of `tests/base_images.py`, busybox or python; return its id."""
        archive, changes = base_images.archive(name)
        options = [f"--change={change}" for change in changes]
        return self.docker("import", *options, archive, tag).strip()

    def push(self, image: str, address: str, *, login: tuple[str, str] | None = None) -> str:
        """Push an image to `registry/name:tag` and return its digest there."""
        if login is not None:
            registry = address.partition("/")[0]
            words = ["login", "--username", login[0], "--password-stdin", registry]
            self.docker(*words, stdin=login[1])
        self.docker("tag", image, address)
        said = self.docker("push", address)
        found = re.search(r"digest: (sha256:[0-9a-f]{64})", said)
        assert found, said
        return found.group(1)


@dataclass(frozen=True)
class Registry:
    """A running registry; `address` is 127.0.0.1:PORT, which engines trust over plain HTTP."""

    address: str
    folder: Path

    def name(self, repository: str, tag: str = "latest") -> str:
        """Return the address of an image in this registry."""
        return f"{self.address}/{repository}:{tag}"


@contextmanager
def serving_engine() -> Iterator[Engine]:
    """Run an engine until the end of the block."""
    # A short path: that of a socket may have 108 characters at most.
    with tempfile.TemporaryDirectory(prefix="engine", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # what containers are given is found in it by users other than root
        (folder / "client").mkdir()
        engine = BuildEngine(folder / "engine")
        try:
            engine.host()
            yield Engine(folder)
        finally:
            engine.close()


@contextmanager
def serving_registry(*, login: tuple[str, str] | None = None) -> Iterator[Registry]:
    """Run a registry until the end of the block; `login`, a user and a password, is required."""
    with tempfile.TemporaryDirectory(prefix="registry", dir="/tmp") as name:
        folder = Path(name)
        settings = [
            "version: 0.1",
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}",
            "http: {addr: '127.0.0.1:0'}",
        ]
        if login is not None:
            (folder / "users").write_text(f"{login[0]}:{_hash_password(login[1])}\n")
            settings.append(f"auth: {{htpasswd: {{realm: tests, path: {folder}/users}}}}")
        (folder / "settings.yml").write_text("\n".join(settings))
        command = ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, folder / "settings.yml"], stdout=log, stderr=log, env={}
            )
        try:
            yield Registry(_wait_for_address(process, folder / "log"), folder)
        finally:
            process.kill()
            process.wait()


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not (found := _ADDRESS.search(log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the registry did not start:\n{log.read_text()}")
        time.sleep(0.02)
    return found.group(1)


def _hash_password(password: str) -> str:
    """Hash a password as the registry requires, with the C library's own bcrypt."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    hashed: bytes = crypt(password.encode(), _SALT)
    return hashed.decode()
