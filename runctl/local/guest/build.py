"""The first process of a build: it executes phases in a shell, and ends everything with itself.

It reads the build as a line of JSON on standard input, and reports lines of output and phases on
standard output. The end of standard input ends the build at once.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
from typing import Any

from runctl.local.guest.processes import adopt_orphans, kill_descendants, read_description, reap

# All commands run in one shell, as on AWS. If a command ends the shell, the next command gets a new
# one, with the exported variables and the folder that the old one had.
_SHELL = """
[ ! -e "$0" ] || . "$0"
trap '{{ declare -f; declare -px; printf "cd %q\\n" "$PWD"; }} >"$0" 2>/dev/null' EXIT
while IFS= read -r -d '' -u {commands} __codebuild_before &&
    IFS= read -r -d '' -u {commands} __codebuild_command; do
    eval "$__codebuild_before"
    printf '[Container] %(%Y/%m/%d %H:%M:%S)T Running command %s\\n' -1 "$__codebuild_command"
    eval "$__codebuild_command" {results}>&- {commands}<&-
    printf '%s\\n' "$?" >&{results}
done
"""
_POLL_SECONDS = 0.02
_LAST_OUTPUT_SECONDS = 0.5
_MAX_LINE_BYTES = 200_000
_MAX_SHOWN = 500
_starting = threading.Lock()


class _Shell:
    """A bash that executes commands one by one."""

    def __init__(self, job: dict[str, Any], output: int) -> None:
        commands, self._commands = os.pipe()
        self.results, results = os.pipe()
        script = _SHELL.format(commands=commands, results=results)
        with _starting:
            self.pid = subprocess.Popen(
                ["bash", "-c", script, job["shell_state"]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=job["cwd"],
                env=job["env"],
                pass_fds=(commands, results),
                start_new_session=True,
            ).pid
        os.close(commands)
        os.close(results)

    def begin(self, command: str, *, before: str) -> None:
        """Start a command; `before` is executed first, without being reported."""
        rest = f"{before}\0{command}\0".encode()
        while rest:
            rest = rest[os.write(self._commands, rest) :]

    def close(self) -> None:
        os.close(self._commands)
        os.close(self.results)


class Build:
    """Executes the phases of a build, and reports them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._shell: _Shell | None = None
        self._output, self._writable = os.pipe()
        os.set_blocking(self._output, False)
        self._partial = b""

    def run(self) -> None:
        """Execute the phases; stop after a failure, except that `post_build` follows `build`."""
        failed = ""
        for phase in self._job["phases"]:
            if failed and not (failed == "build" and phase["name"] == "post_build"):
                continue
            _report(event="phase", name=phase["name"])
            problem = self._run_phase(phase, is_succeeding=not failed)
            _report(event="phase_ended", name=phase["name"], problem=problem)
            if problem:
                failed = "aborted" if phase["aborts"] else failed or phase["name"]

    def _run_phase(self, phase: dict[str, Any], *, is_succeeding: bool) -> str:
        problem = ""
        before = f"export CODEBUILD_BUILD_SUCCEEDING={int(is_succeeding)}"
        for command in phase["commands"]:
            if problem := self._execute(command, before):
                before = "export CODEBUILD_BUILD_SUCCEEDING=0"
                break
        for command in phase["finally"]:
            problem = self._execute(command, before) or problem
        return problem

    def _execute(self, command: str, before: str) -> str:
        """Execute a command; return what went wrong, or an empty text."""
        shell = self._shell = self._shell or _Shell(self._job, self._writable)
        shell.begin(command, before=before)
        status = self._wait_for(shell)
        self._read_last_output()
        if status == 0:
            return ""
        shown = command if len(command) <= _MAX_SHOWN else f"{command[:_MAX_SHOWN]}…"
        now = time.strftime("%Y/%m/%d %H:%M:%S")
        _report(
            event="line",
            text=f"[Container] {now} Command did not exit successfully {shown} "
            f"exit status {status}",
        )
        return f"Error while executing command: {shown}. Reason: exit status {status}"

    def _wait_for(self, shell: _Shell) -> int:
        """Return the status of the command, or that with which it ended the shell."""
        while True:
            ready, _, _ = select.select([self._output, shell.results], [], [], _POLL_SECONDS)
            if self._output in ready:
                self._read_output()
            elif shell.results in ready and (answer := os.read(shell.results, 64)):
                return int(answer)
            ended = dict(reap())
            if shell.pid in ended:
                self._shell = None
                shell.close()
                return ended[shell.pid]

    def _read_output(self) -> bool:
        """Report the complete lines that can be read; return whether there was anything."""
        try:
            found = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self._partial = (self._partial + found).split(b"\n")
        while len(self._partial) > _MAX_LINE_BYTES:
            lines.append(self._partial[:_MAX_LINE_BYTES])
            self._partial = self._partial[_MAX_LINE_BYTES:]
        for line in lines:
            _report(event="line", text=line.decode(errors="replace"))
        return True

    def _read_last_output(self) -> None:
        # What a command leaves running may go on writing.
        deadline = time.monotonic() + _LAST_OUTPUT_SECONDS
        while self._read_output() and time.monotonic() < deadline:
            pass
        if self._partial:
            _report(event="line", text=self._partial.decode(errors="replace"))
            self._partial = b""


def _report(**event: Any) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def _end_when_told() -> None:
    while os.read(0, 4096):
        pass
    _starting.acquire()  # nothing is started any more
    kill_descendants()
    os._exit(1)


def main() -> None:
    """Execute the build that the first line of standard input describes."""
    description = read_description()
    if description is None:
        return
    os.umask(0o022)
    adopt_orphans()
    threading.Thread(target=_end_when_told, daemon=True).start()
    try:
        Build(description).run()
    finally:
        _starting.acquire()
        kill_descendants()
        os._exit(0)
