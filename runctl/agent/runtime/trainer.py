"""The trainer: the user's program, started by its contract and ended with everything it started."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.runtime.process_table import ProcessInfo, handles_sigterm
from runctl.model.contract import expand
from runctl.model.errors import RequestError
from runctl.model.excerpt import last_lines
from runctl.model.line_endings import HEAD_BYTES, problem_with_line_endings
from runctl.model.request import RunRequest
from runctl.model.script_kinds import ScriptKind, kind_of_script, problem_with_script

# What of our own environment a trainer may see: nothing of AWS, Python or ours.
PASSED_ON = (
    "HOME", "LANG", "LC_ALL", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "USER",
    "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SLICE = "runctl-trainer.slice"
AGENT_UNIT = "runctl-agent.service"
REASON_LINES = 15
TAIL_BYTES = 16 * 1024
# Whoever dies of one of these has not come to its own exit. SIGINT is not among them: Python ends
# by it after a KeyboardInterrupt, and only when it has run its exit handlers.
FATAL_SIGNALS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGHUP,
        signal.SIGILL,
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    }
)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the trainer is promised: its folders, its run, where it resumes."""

    run_id: str
    attempt: int
    resume_step: int | None
    checkpoint: Path
    inputs: Path
    outputs: Path
    metrics: Path
    checkpoint_request: Path
    saved: Path
    partial: Path | None = None

    def as_environment(self) -> dict[str, str]:
        """Return the variables of the trainer contract."""
        partial = {} if self.partial is None else {"RUNCTL_PARTIAL_DIR": str(self.partial)}
        return {
            **partial,
            "RUNCTL_RUN_ID": self.run_id,
            "RUNCTL_ATTEMPT": str(self.attempt),
            "RUNCTL_RESUME_STEP": "" if self.resume_step is None else str(self.resume_step),
            "RUNCTL_CHECKPOINT_DIR": str(self.checkpoint),
            "RUNCTL_INPUT_DIR": str(self.inputs),
            "RUNCTL_OUTPUT_DIR": str(self.outputs),
            "RUNCTL_METRICS_FILE": str(self.metrics),
            # For the helper: it watches the one for requests, and appends to the other
            # {"step": N} after it has renamed a save into place.
            "RUNCTL_CHECKPOINT_REQUEST": str(self.checkpoint_request),
            "RUNCTL_SAVED_FILE": str(self.saved),
        }


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of our environment a program of the user's may see."""
    kept = {name: environ[name] for name in PASSED_ON if name in environ}
    # systemd sets no HOME for a system service without User=; git, bash and caches want one.
    home = pwd.getpwuid(os.getuid()).pw_dir
    return {"PATH": environ.get("PATH", DEFAULT_PATH), "HOME": home, **kept}


def trainer_environment(
    environ: Mapping[str, str],
    *,
    env: Mapping[str, str],
    contract: Contract,
    environment: Path,
    project: Path,
    training_path: Path,
    credentials: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the trainer's whole environment; `training_path` is where the helper lies.

    `env` are the request's variables, with their secrets: the environment of a process is read by
    its owner and root only, the words of its command line by everybody. `credentials` are the
    variables by which it gets its run's, if it asked for them.
    """
    base = base_environment(environ)
    # Dependencies are installed, the project itself is not: its packages are imported from here.
    source = str(project / "src") if (project / "src").is_dir() else ""
    # What is the project's own comes first, so that the helper hides nothing of it.
    searched = [env.get("PYTHONPATH", source), str(training_path)]
    return {
        **base,
        "PYTHONUNBUFFERED": "1",
        **(_where_aws_is(environ) if credentials else {}),
        **env,
        **(credentials or {}),
        "PYTHONPATH": ":".join(filter(None, searched)),
        "PATH": f"{environment / 'bin'}:{env.get('PATH', base['PATH'])}",
        "VIRTUAL_ENV": str(environment),
        **contract.as_environment(),
    }


def _where_aws_is(environ: Mapping[str, str]) -> dict[str, str]:
    region = environ.get("AWS_DEFAULT_REGION", "")
    told = {
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        # The local cloud, or an endpoint of somebody's own network.
        "AWS_ENDPOINT_URL": environ.get("AWS_ENDPOINT_URL", ""),
    }
    return {name: value for name, value in told.items() if value}


def trainer_command(
    request: RunRequest,
    script: str,
    *,
    project: Path,
    environment: Path,
    variables: Mapping[str, str],
    resumes: bool,
) -> list[str]:
    """Return the words of the trainer's command line, with references to `variables` replaced."""
    words = list(request.program.command) or [
        *_start_of(script, project=project, environment=environment),
        *request.program.args,
    ]
    return expand([*words, *(request.program.resume_args if resumes else ())], variables)


def _start_of(script: str, *, project: Path, environment: Path) -> list[str]:
    path = project / script
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    for problem in (problem_with_line_endings(script, head), problem_with_script(script, head)):
        if problem:
            raise RequestError(f"{script} {problem}")
    kind = kind_of_script(script, head)
    if kind is ScriptKind.BASH:
        return ["bash", script]
    if kind is ScriptKind.ITSELF:
        path.chmod(path.stat().st_mode | 0o111)
        return [str(path)]
    return [str(environment / "bin/python"), script]


class Trainer:
    """A running trainer; its output goes to files, so it never waits for us."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        cwd: Path,
        output: Path,
        errors: Path,
        on_exit: Callable[[], None],
    ) -> None:
        self._errors = errors
        self._output = output
        self._on_exit = on_exit
        # What a trainer of this attempt before it has printed is in the same files.
        self._printed_before = {path: _size_of(path) for path in (errors, output)}
        self._handles_sigterm = False
        self._is_python = ProcessInfo(pid=0, parent=0, words=tuple(command)).is_python
        words = [*scope(), *command]
        try:
            with output.open("ab") as out, errors.open("ab") as err:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=dict(environ),
                    cwd=cwd,
                    start_new_session=True,
                )
        except OSError as exc:
            raise RequestError(f"{command[0]!r} cannot be started: {exc.strerror}") from exc
        with contextlib.suppress(OSError):
            # Should memory run out, the trainer goes first, and we live to tell.
            Path(f"/proc/{self.pid}/oom_score_adj").write_text("500")
        self._started = time.monotonic()
        self._ended: float | None = None
        threading.Thread(target=self._wait, name="trainer", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process that we started."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal, or None while it runs."""
        return self._process.returncode

    def is_running(self) -> bool:
        """Whether the process that we started has not ended."""
        return self._process.returncode is None

    @property
    def lived(self) -> timedelta:
        """How long it has run, or ran."""
        ended = time.monotonic() if self._ended is None else self._ended
        return timedelta(seconds=ended - self._started)

    def family(self) -> list[int]:
        """Return every process that descends from it, those that outlived it included."""
        return processes.descendants(os.getpid())

    def note_handler(self) -> None:
        """Take note of whether it handles SIGTERM: once it has died of one, nobody can tell."""
        if self.is_running():
            self._handles_sigterm = handles_sigterm(self.pid)

    def died_of_a_fault(self) -> bool:
        """Whether the process that we started, or the one behind its shell, ended by no exit."""
        code = self.exit_code or 0
        if code > 0 and self._is_python:
            return False
        # A shell or a launcher reports its child's signal as 128 and the signal's number.
        return (-code if code < 0 else code - 128) in FATAL_SIGNALS

    def died_unaware(self) -> bool:
        """Whether it died of a SIGTERM that it does not handle, whoever sent it.

        One that does handle it dies of it when it passes it on to itself, after its save.
        """
        return self.exit_code == -signal.SIGTERM and not self._handles_sigterm

    def end_family(self, folder: Path | None = None) -> processes.Killed:
        """SIGKILL everything that is left of it; return what that was and wrote in `folder`."""
        killed = processes.end_tree(os.getpid(), keep_status_of=self.pid, folder=folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return killed

    def last_words(self) -> str:
        """Return the end of its standard error, or of its output when that is empty."""
        for path in (self._errors, self._output):
            with contextlib.suppress(OSError), path.open("rb") as stream:
                begin = self._printed_before[path]
                stream.seek(max(begin, path.stat().st_size - TAIL_BYTES))
                if told := last_lines(stream.read().decode(errors="replace"), most=REASON_LINES):
                    return told
        return ""

    def _wait(self) -> None:
        self._process.wait()
        self._ended = time.monotonic()
        self._on_exit()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def scope() -> list[str]:
    """Return the words that put a command into the trainer's slice, where systemd runs."""
    runner = shutil.which("systemd-run")
    if runner is None or not Path("/run/systemd/system").is_dir():
        return []
    words = [runner, "--scope", "--quiet", "--collect", f"--slice={SLICE}"]
    # Units stop in the reverse of their order: in a shutdown the agent drains first. Otherwise
    # systemd would send SIGTERM to launchers and data-loader workers too, at the same moment.
    # One process that the kernel kills for lack of memory must not end all others by SIGTERM: the
    # trainer would save, exit with 0 and look as if it were done.
    return [*words, f"--property=Before={AGENT_UNIT}", "--property=OOMPolicy=continue", "--"]
