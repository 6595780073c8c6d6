"""The Docker of this machine, used through its command line: build, push and save."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runctl.model.docker_options import DockerOptions
from runctl.model.errors import RequestError, SetupError

_BLOCK = 1 << 20
# The descriptor, because output may be replaced as an object.
_STDERR = 2
# Of several gigabytes, fast compression leaves little more than thorough compression.
_LEVEL = 1


class LocalDocker:
    """Runs `docker`; raises SetupError without an engine, RequestError if a command fails."""

    def check(self) -> None:
        """Refuse a machine without Docker, or whose engine does not answer."""
        if shutil.which("docker") is None:
            raise SetupError(
                "--build local needs Docker on this machine; install it, or build in the cloud"
            )
        done = self._run("version", "--format", "{{.Server.Version}}")
        if done.returncode:
            raise SetupError(
                f"Docker does not answer: {_last_line(done.stderr)}; start it, or build in the "
                "cloud"
            )

    def build(
        self,
        package: Path,
        docker: DockerOptions,
        *,
        platform: str,
        name: str,
        secrets: Mapping[str, str],
    ) -> None:
        """Build a packed project and name the image; the output goes to stderr."""
        words = ["build", "--file", docker.dockerfile, "--platform", platform, "--tag", name]
        if docker.target:
            words += ["--target", docker.target]
        for key, value in docker.build_args.items():
            words += ["--build-arg", f"{key}={value}"]
        with _files(secrets) as paths:
            for key, path in paths.items():
                words += ["--secret", f"id={key},src={path}"]
            environment = {**os.environ, **({"DOCKER_BUILDKIT": "1"} if paths else {})}
            with package.open("rb") as context:
                done = subprocess.run(
                    ["docker", *words, "-"],
                    stdin=context,
                    stdout=_STDERR,
                    env=environment,
                    check=False,
                )
        if done.returncode:
            raise RequestError(
                f"{docker.dockerfile}: the build failed with exit code {done.returncode}; its "
                "output is above"
            )

    def login(self, registry: str, *, user: str, password: str) -> None:
        """Log in to a registry; the password is not an argument, which others could read."""
        words = ("login", "--username", user, "--password-stdin", registry)
        done = self._run(*words, stdin=password)
        if done.returncode:
            raise RequestError(f"{registry} refuses the login: {_last_line(done.stderr)}")

    def push(self, name: str) -> str:
        """Push an image and return `repository@digest`."""
        done = subprocess.run(
            ["docker", "push", name],
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            check=False,
        )
        if done.returncode:
            raise RequestError(
                f"{name} could not be pushed; its output is above (docker login, if it is denied)"
            )
        repository = name.rpartition(":")[0]
        found = self._run("image", "inspect", "--format", "{{json .RepoDigests}}", name)
        for reference in json.loads(found.stdout or "[]"):
            if str(reference).partition("@")[0] == repository:
                return str(reference)
        raise RequestError(f"{name} was pushed, but Docker does not know its digest; push it again")

    def image_id(self, name: str) -> str:
        """Return the id of an image, a digest of its configuration."""
        done = self._run("image", "inspect", "--format", "{{.Id}}", name)
        if done.returncode:
            raise RequestError(f"Docker has no image {name}: {_last_line(done.stderr)}")
        return done.stdout.strip()

    def save(self, name: str, into: Path) -> None:
        """Write an image as a compressed archive that `docker load` reads."""
        with subprocess.Popen(
            ["docker", "save", name], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            with gzip.GzipFile(into, "wb", compresslevel=_LEVEL, mtime=0) as packed:
                while block := process.stdout.read(_BLOCK):
                    packed.write(block)
        if process.returncode:
            raise RequestError(f"{name} could not be saved; its output is above")

    def _run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *words], input=stdin, capture_output=True, text=True, check=False
        )


@contextmanager
def _files(secrets: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Keep secrets in files of this user until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="runctl-") as folder:
        paths = {name: Path(folder, name) for name in secrets}
        for name, path in paths.items():
            path.touch(mode=0o600)
            path.write_text(secrets[name])
        yield paths


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
