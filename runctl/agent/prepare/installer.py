"""The runs of venv, pip and uv: their output goes to the log, their last lines into the error."""

import contextlib
import logging
import platform
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from runctl.model.declaration import PythonRule
from runctl.model.errors import RequestError, TransientError
from runctl.model.excerpt import last_lines

REASON_LINES = 12
REASON_CHARACTERS = 900
# What pip and uv print if the network, and not the project, is to blame. Without an answer from the
# index, pip also prints that no version was found, so these lines take precedence.
NETWORK = (
    "Retrying (Retry(",
    "Max retries exceeded",
    "NewConnectionError",
    "Temporary failure in name resolution",
    "Connection reset by peer",
    "Connection refused",
    "Read timed out",
    "IncompleteRead",
    "502 Server Error",
    "503 Server Error",
    "504 Server Error",
    "429 Client Error",
)
# The same from git and ssh, for `git+https://…`.
REPOSITORY = (
    "Could not resolve host",
    "Could not resolve hostname",
    "Failed to connect",
    "Couldn't connect to server",
    "Connection timed out",
    "Connection closed by",
    "Operation timed out",
    "Network is unreachable",
    "No route to host",
    "Empty reply from server",
    "The requested URL returned error: 5",
    "The requested URL returned error: 429",
    "RPC failed",
    "early EOF",
    "unexpected disconnect",
    "the remote end hung up unexpectedly",
    "gnutls_handshake() failed",
    "SSL_ERROR_SYSCALL",
    "GnuTLS recv error",
)
# The host answers, but with a refusal: trying again does not help.
ANSWERED = ("The requested URL returned error: 4", "certificate", "Authentication failed")
# About ten minutes in total: longer than most outages of an index, and not so long that an idle
# instance costs much.
NETWORK_WAITS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The tools that build environments: our own interpreter and the vendored pip."""

    python: Path
    pip: Path
    environ: Mapping[str, str]


def find_tools(vendor: Path, environ: Mapping[str, str]) -> Tools:
    """Return this interpreter (below any virtual environment) and the pip in `vendor`."""
    wheels = sorted(vendor.glob("pip-*.whl"))
    pip = wheels[-1] / "pip" if wheels else vendor / "pip"
    base = Path(getattr(sys, "_base_executable", "") or sys.executable)
    return Tools(python=base, pip=pip, environ=environ)


class Installer:
    """Makes environments and installs into them."""

    def __init__(
        self,
        tools: Tools,
        folder: Path,
        *,
        log: Callable[[], TextIO],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.tools = tools
        self._folder = folder
        self._log = log
        self._wait = wait

    def create(self, target: Path, source: str) -> None:
        """Create an empty environment."""
        # Without pip: `ensurepip` is missing on Ubuntu, and the trainer needs none.
        command = [str(self.tools.python), "-I", "-m", "venv", "--without-pip", str(target)]
        self._run(command, f"the environment for {source} cannot be created", self._folder)
        for activate in (target / "bin").glob("[aA]ctivate*"):
            activate.unlink()  # they contain the absolute path, and nothing activates them

    def install(self, target: Path, arguments: Sequence[str], source: str, *, cwd: Path) -> None:
        """Install the packages in pip's arguments, whose paths are relative to `cwd`."""
        self._pip(target, arguments, f"the dependencies of {source} failed to install", cwd)

    def export(self, project: Path, source: str, target: Path) -> Path:
        """Turn uv.lock into a requirements file, with the uv that pip installs for it."""
        tool = self._folder / "uv"
        if not (tool / "ready").exists():
            shutil.rmtree(tool, ignore_errors=True)
            self.create(tool, source)
            what = f"uv, which reads {source}, failed to install"
            self._pip(tool, ["uv"], what, self._folder)
            (tool / "ready").touch()
        command = [str(tool / "bin/uv"), "export", "--frozen", "--no-dev", "--no-emit-project"]
        command += ["--project", str(project), "--output-file", str(target), "--quiet"]
        self._run(command, f"{source} cannot be read by uv", project)
        return target

    def check_python(self, rules: Sequence[PythonRule]) -> None:
        """Check every `requires-python` with pip's own parser of version specifiers."""
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from pip._vendor.packaging.specifiers import SpecifierSet as S; "
            "sys.exit(not S(sys.argv[2]).contains(sys.argv[3], prereleases=True))"
        )
        version = platform.python_version()
        command = [str(self.tools.python), "-I", "-c", program, str(self.tools.pip.parent)]
        for rule in rules:
            self._run(
                [*command, rule.specifier, version],
                f"{rule.source} requires Python {rule.specifier}, this instance has {version}; "
                "change requires-python, or the deployment's machine image",
                self._folder,
            )

    def _pip(self, target: Path, arguments: Sequence[str], what: str, cwd: Path) -> None:
        command = [str(self.tools.python), "-I", str(self.tools.pip)]
        command += ["--python", str(target / "bin/python"), "install", "--no-input"]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"]
        command += ["--no-warn-script-location", "--no-compile", "--retries", "2", *arguments]
        for wait in (*NETWORK_WAITS, None):
            try:
                self._run(command, what, cwd)
            except TransientError as exc:
                if wait is None:
                    raise RequestError(f"{exc} (tried {len(NETWORK_WAITS) + 1} times)") from exc
                logger.warning("%s; trying again in %.0f s", exc, wait)
                self._wait(wait)
            else:
                return

    def _run(self, command: Sequence[str], what: str, cwd: Path) -> None:
        last: deque[str] = deque(maxlen=REASON_LINES)
        cause = ""
        log = self._log()
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # git must not wait for a password.
                env={**self.tools.environ, "GIT_TERMINAL_PROMPT": "0"},
                cwd=cwd,
            ) as process:
                for line in process.stdout or ():
                    with contextlib.suppress(OSError):  # a full disk shows in what pip says
                        log.write(line)
                        log.flush()
                    if line.strip():
                        last.append(line.strip())
                    cause = cause or network_cause(line)
        finally:
            with contextlib.suppress(OSError):
                log.close()
        if process.returncode != 0:
            excerpt = last_lines("\n".join(last), most=REASON_LINES, limit=REASON_CHARACTERS)
            excerpt = excerpt.replace("…\n", "… ").replace("\n", " | ")
            if cause:
                raise TransientError(f"{what}: {cause}: {excerpt}")
            raise RequestError(f"{what}: {excerpt}" if excerpt else what)


def network_cause(line: str) -> str:
    """Return what could not be reached if a line of pip, uv or git reports a network failure."""
    if any(sign in line for sign in NETWORK):
        return "the package index cannot be reached"
    if any(sign in line for sign in REPOSITORY) and not any(sign in line for sign in ANSWERED):
        return "the repository cannot be reached"
    return ""
