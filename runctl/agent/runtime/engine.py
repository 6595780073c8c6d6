"""The Docker engine of this machine, by its command line. Its errors are `EngineError`."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

# The agent's own variables that the client needs; no other reaches it.
PASSED_ON = (
    "HOME", "PATH", "TMPDIR", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Seconds for a call that changes nothing large.
CALL_TIMEOUT = 60
MAX_ERROR_LINES = 5
NO_ENGINE = (
    "no such file or directory",
    "cannot connect to the docker daemon",
    "is the docker daemon running",
    "error during connect",
)


class EngineError(Exception):
    """A command of the engine failed; the text is the end of what it printed."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(message)
        self.command = command

    @property
    def has_no_engine(self) -> bool:
        """Whether the engine does not run, or is not installed."""
        text = str(self).lower()
        return any(sign in text for sign in NO_ENGINE) and "docker" in text


class Engine:
    """The engine.

    `config` is the client's folder, with the logins of the registries, and `helpers` is that of
    the programs that it asks for logins.
    """

    def __init__(
        self, config: Path, helpers: Path, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.config = config
        self.helpers = helpers
        self._environ = {
            **{name: environ[name] for name in PASSED_ON if environ.get(name)},
            "PATH": f"{environ.get('PATH') or DEFAULT_PATH}:{helpers}",
            "DOCKER_CONFIG": str(config),
        }

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of the client; `variables` never replace its own."""
        return {**(variables or {}), **self._environ}

    def call(
        self,
        *words: str,
        timeout: float = CALL_TIMEOUT,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command and return its standard output. Raises EngineError."""
        output = self.read_bytes(*words, timeout=timeout, variables=variables)
        return output.decode(errors="replace")

    def read_bytes(
        self,
        *words: str,
        timeout: float = CALL_TIMEOUT,
        variables: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the same as bytes."""
        try:
            done = subprocess.run(
                ["docker", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self.environment(variables),
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise EngineError(words[0], f"no answer within {timeout:.0f} s") from exc
        except OSError as exc:
            raise EngineError(words[0], f"docker: {exc.strerror}") from exc
        if done.returncode:
            raise EngineError(words[0], _end_of(done.stderr or done.stdout))
        return done.stdout

    def stream(self, *words: str, on_line: Callable[[str], None], body: Any = None) -> None:
        """Run a long command, give each line that it prints to `on_line`; raises EngineError.

        `body` is an iterable of chunks for its standard input. What that raises is raised here.
        """
        try:
            process = subprocess.Popen(
                ["docker", *words],
                stdin=subprocess.DEVNULL if body is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environ,
            )
        except OSError as exc:
            raise EngineError(words[0], f"docker: {exc.strerror}") from exc
        last: list[str] = []
        with process:
            try:
                if process.stdin is not None:
                    _feed(process.stdin, body)
                for line in process.stdout or ():
                    text = line.decode(errors="replace").strip()
                    last = [*last, text][-MAX_ERROR_LINES:]
                    on_line(text)
                if process.wait():
                    raise EngineError(words[0], "\n".join(last))
            finally:
                process.kill()

    def inspect(self, what: str, name: str) -> dict[str, Any] | None:
        """Return what the engine knows of an image or a container, None if there is none."""
        try:
            found = json.loads(self.call(what, "inspect", name))
        except EngineError as exc:
            if "no such" in str(exc).lower() and not exc.has_no_engine:
                return None
            raise
        return dict(found[0]) if found else None

    def remove(self, containers: Iterable[str]) -> None:
        """Remove containers, with everything that runs in them."""
        if names := [*containers]:
            self.call("rm", "--force", "--volumes", *names)


def _feed(stream: IO[bytes], body: Iterable[bytes]) -> None:
    # A client that no longer reads says why.
    with contextlib.suppress(BrokenPipeError), stream:
        for chunk in body:
            stream.write(chunk)


def _end_of(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-MAX_ERROR_LINES:])
