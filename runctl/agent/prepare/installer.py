"""The runs of venv, pip and uv.

Their output goes to the agent's log, a few lines about it to the trainer's, and the last lines of a
failure into the error.
"""

import contextlib
import json
import logging
import platform
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import runctl
from runctl.agent.instance.disk import says_full
from runctl.agent.instance.ownership import give_to, take_back
from runctl.agent.prepare.uv_settings import uv_variables
from runctl.agent.runtime.trainer_user import TrainerUser, end_processes, starting
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
# The lines of uv and pip that show their progress.
UV_PROGRESS = ("Resolved ", "Prepared ", "Installed ")
PIP_PROGRESS = ("Installing collected packages", "Successfully installed")
# The same version as everywhere else in this project, with its digests.
UV_REQUIREMENT = Path(__file__).with_name("uv.txt")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The tools that build environments: our own interpreter, the vendored pip, and perhaps uv."""

    python: Path
    pip: Path
    environ: Mapping[str, str]
    uv: Path | None = None


def find_tools(vendor: Path, environ: Mapping[str, str]) -> Tools:
    """Return this interpreter (below any virtual environment) and the pip in `vendor`.

    uv is that of the machine's image, if it has one.
    """
    wheels = sorted(vendor.glob("pip-*.whl"))
    pip = wheels[-1] / "pip" if wheels else vendor / "pip"
    base = Path(getattr(sys, "_base_executable", "") or sys.executable)
    uv = shutil.which("uv", path=environ.get("PATH", ""))
    return Tools(python=base, pip=pip, environ=environ, uv=Path(uv) if uv else None)


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
        self.user: TrainerUser | None = None
        self._folder = folder
        self._log = log
        self._wait = wait

    def use(self, variables: Mapping[str, str]) -> None:
        """Add variables to the environment of pip and uv."""
        self.tools = replace(self.tools, environ={**self.tools.environ, **variables})

    def run_as(self, user: TrainerUser | None) -> None:
        """Run all tools as a user: a build executes code of the packages."""
        self.user = user
        named = {} if user is None else user.variables()
        self.tools = replace(self.tools, environ={**self.tools.environ, **named})

    def make_place(self, folder: Path) -> None:
        """Make a new folder in which the tools may write."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.user is not None:
            folder.mkdir(mode=0o755)
            give_to(self.user.owner, [folder])

    def take_back(self, folder: Path) -> None:
        """Let nothing that a build has left running, or that runs later, change its result.

        Raises RequestError if there is something in it that no build makes.
        """
        if self.user is None:
            return
        end_processes(self.user)
        try:
            take_back(folder)
        except OSError as exc:
            if says_full(exc):
                raise
            raise RequestError(f"the environment cannot be used: {exc}") from exc

    def run_step(self, step: Callable[..., None], **arguments: Any) -> None:
        """Call a function that changes what a build has left, as the user of the build.

        As root it would follow the links that a build may have made.
        """
        if self.user is None:
            step(**arguments)
            return
        command = [str(self.tools.python), "-I", "-S", "-c", step_program(step)]
        text = json.dumps(arguments, default=str)
        # Names of files may be more than a command line holds.
        given = self._folder / "step.json"
        given.write_text(text)
        what = "the built environment cannot be prepared for its use"
        self._run([*command, str(given)], what, self._folder)

    def report(self, line: str) -> None:
        """Show a line of progress among the trainer's output."""
        logger.info("%s", line)
        with contextlib.suppress(OSError), contextlib.closing(self._log()) as log:
            log.write(f"{line}\n")

    def create(self, target: Path, source: str) -> None:
        """Create an empty environment."""
        # Without pip: `ensurepip` is missing on Ubuntu, and the trainer needs none.
        command = [str(self.tools.python), "-I", "-m", "venv", "--without-pip", str(target)]
        self._run(command, f"the environment for {source} cannot be created", self._folder)
        for activate in (target / "bin").glob("[aA]ctivate*"):
            activate.unlink()  # they contain the absolute path, and nothing activates them

    def install(
        self,
        target: Path,
        arguments: Sequence[str],
        source: str,
        *,
        cwd: Path,
        is_offline: bool = False,
    ) -> None:
        """Install the packages in pip's arguments, whose paths are relative to `cwd`.

        uv does it, and pip where uv fails: it supports more, and its words are the known ones. With
        `is_offline`, nothing may be fetched for the installation itself.
        """
        if self._install_with_uv(target, arguments, cwd, is_offline=is_offline):
            return
        python = ["--python", str(target / "bin/python")]
        what = f"the dependencies of {source} failed to install"
        self._pip(python, ["--no-compile", *arguments], what, cwd)

    def _install_with_uv(
        self, target: Path, arguments: Sequence[str], cwd: Path, *, is_offline: bool
    ) -> bool:
        variables = self._uv_variables()
        uv = None if variables is None else self._find_uv(may_fetch=not is_offline)
        if uv is None or variables is None:
            return False
        # On the same file system: then files are linked into the environment and not copied.
        cache = self._folder / "uv-cache"
        self.make_place(cache)
        command = [str(uv), "pip", "install", "--python", str(target / "bin/python")]
        command += ["--no-config", "--no-sources", "--no-progress", "--color", "never"]
        command += ["--index-strategy", "unsafe-best-match"]  # as pip chooses
        command += ["--cache-dir", str(cache), *arguments]
        try:
            self._run(command, "uv failed", cwd, variables=variables, shown=UV_PROGRESS)
        except (RequestError, TransientError, OSError) as exc:
            logger.info("pip is used instead of uv: %s", exc)
            return False
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        return True

    def _uv_variables(self) -> dict[str, str] | None:
        """Return what uv needs of the machine's settings of pip; None if uv cannot follow them."""
        command = [str(self.tools.python), "-I", str(self.tools.pip), "config", "list"]
        with starting(self.user, command, self.tools.environ) as start:
            done = subprocess.run(
                start.words,
                stdin=start.stdin,
                capture_output=True,
                text=True,
                errors="replace",
                env=start.environment,
                check=False,
            )
        return uv_variables(done.stdout.splitlines()) if done.returncode == 0 else None

    def _find_uv(self, *, may_fetch: bool) -> Path | None:
        if self.tools.uv is not None:
            return self.tools.uv
        try:
            return self._fetched_uv("uv failed to install", may_fetch=may_fetch, waits=())
        except RequestError as exc:
            logger.info("pip is used instead of uv: %s", exc)
            return None

    def _fetched_uv(self, what: str, *, may_fetch: bool, waits: Sequence[float]) -> Path | None:
        """Return the uv that pip installs: always the same version, verified by its digest."""
        tool = self._folder / "uv"
        if not (tool / "ready").exists():
            if not may_fetch:
                return None
            self.make_place(tool)
            arguments = ["--target", str(tool), "--no-deps", "--only-binary", ":all:"]
            arguments += ["--require-hashes", "-r", str(UV_REQUIREMENT)]
            self._pip([], arguments, what, self._folder, waits=waits)
            self.take_back(tool)
            (tool / "ready").touch()
        return tool / "bin/uv"

    def export(self, project: Path, source: str, target: Path) -> Path:
        """Turn uv.lock into a requirements file with uv."""
        what = f"uv, which reads {source}, failed to install"
        uv = self.tools.uv or self._fetched_uv(what, may_fetch=True, waits=NETWORK_WAITS)
        work = self._folder / "export"
        self.make_place(work)
        work.mkdir(exist_ok=True)
        exported = work / target.name
        command = [str(uv), "export", "--frozen", "--no-dev", "--no-emit-project"]
        command += ["--project", str(project), "--output-file", str(exported), "--quiet"]
        self._run(command, f"{source} cannot be read by uv", project)
        self.take_back(work)
        if exported.is_symlink():
            raise RequestError(f"{source} cannot be read by uv: its result is a link")
        exported.replace(target)
        shutil.rmtree(work, ignore_errors=True)
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

    def _pip(
        self,
        python: Sequence[str],
        arguments: Sequence[str],
        what: str,
        cwd: Path,
        *,
        waits: Sequence[float] | None = None,
    ) -> None:
        command = [str(self.tools.python), "-I", str(self.tools.pip), *python]
        command += ["install", "--no-input"]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"]
        command += ["--no-warn-script-location", "--retries", "2", *arguments]
        pauses = NETWORK_WAITS if waits is None else waits
        for wait in (*pauses, None):
            try:
                self._run(command, what, cwd, shown=PIP_PROGRESS)
            except TransientError as exc:
                if wait is None:
                    raise RequestError(f"{exc} (tried {len(pauses) + 1} times)") from exc
                logger.warning("%s; trying again in %.0f s", exc, wait)
                self._wait(wait)
            else:
                return

    def _run(
        self,
        command: Sequence[str],
        what: str,
        cwd: Path,
        *,
        variables: Mapping[str, str] | None = None,
        shown: tuple[str, ...] = (),
    ) -> None:
        last: deque[str] = deque(maxlen=REASON_LINES)
        cause = ""
        # git must not wait for a password.
        environ = {**self.tools.environ, "GIT_TERMINAL_PROMPT": "0", **(variables or {})}
        with (
            starting(self.user, command, environ) as start,
            subprocess.Popen(
                start.words,
                stdin=start.stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=start.environment,
                cwd=cwd,
            ) as process,
        ):
            for line in map(str.strip, process.stdout or ()):
                if not line:
                    continue
                last.append(line)
                cause = cause or network_cause(line)
                if line.startswith(shown):
                    self.report(line)
                else:
                    logger.info("%s", line)
        if process.returncode != 0:
            excerpt = last_lines("\n".join(last), most=REASON_LINES, limit=REASON_CHARACTERS)
            excerpt = excerpt.replace("…\n", "… ").replace("\n", " | ")
            if cause:
                raise TransientError(f"{what}: {cause}: {excerpt}")
            raise RequestError(f"{what}: {excerpt}" if excerpt else what)


def step_program(step: Callable[..., None]) -> str:
    """Return the program that calls a function with the arguments in a file."""
    package = str(Path(runctl.__file__).parents[1])
    return (
        f"import json, sys; sys.path.insert(0, {package!r}); "
        f"from {step.__module__} import {step.__name__}; "
        f"{step.__name__}(**json.load(open(sys.argv[1])))"
    )


def network_cause(line: str) -> str:
    """Return what could not be reached if a line of pip, uv or git reports a network failure."""
    if any(sign in line for sign in NETWORK):
        return "the package index cannot be reached"
    if any(sign in line for sign in REPOSITORY) and not any(sign in line for sign in ANSWERED):
        return "the repository cannot be reached"
    return ""
