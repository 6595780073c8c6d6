"""The agent's side of commits: one process at a time, which gives way to everything else."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict

from runctl.agent.prepare.environment_commit import CommitJob
from runctl.agent.runtime.process_table import counting_as_tool

# In the child: the same modules as here.
PROGRAM = (
    "import json, sys; document = json.load(sys.stdin); sys.path[:] = document['path']; "
    "from runctl.agent.prepare.environment_commit import main; sys.exit(main(document))"
)
CHECK_SECONDS = 0.5
# A process of this priority gets 3 % of a processor that the trainer occupies, and all of an idle
# one.
NICENESS = 15

logger = logging.getLogger(__name__)


class EnvironmentCommitter:
    """Starts and ends the processes that commit environments."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        is_ending: Callable[[], bool] = lambda: False,
        niceness: int = NICENESS,
        program: str = PROGRAM,
    ) -> None:
        """Give the processes `environ`, and end them once `is_ending`: checkpoints go first."""
        self._program = program
        self._niceness = niceness
        self._environ = environ
        self._is_ending = is_ending
        self._process: subprocess.Popen[str] | None = None
        self._said = ""
        self._watch: threading.Thread | None = None

    def start(self, job: CommitJob) -> None:
        """Start to commit; an earlier commit ends unfinished."""
        self.stop(within=0)
        command = ["nice", "-n", str(self._niceness)]
        if shutil.which("ionice", path=self._environ.get("PATH")):
            command += ["ionice", "-c", "3"]
        try:
            process = subprocess.Popen(
                [*command, sys.executable, "-I", "-c", self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=dict(self._environ),
                start_new_session=True,
            )
        except OSError as exc:
            logger.warning("the environment cannot be stored: %s", exc)
            return
        with contextlib.suppress(BrokenPipeError):
            assert process.stdin is not None
            document = {"job": asdict(job), "niceness": self._niceness, "path": sys.path}
            json.dump(document, process.stdin)
            process.stdin.close()
        self._process = process
        self._watch = threading.Thread(
            target=self._report, args=(process,), name="environment", daemon=True
        )
        self._watch.start()

    def wait(self) -> str:
        """Wait for the commit that is underway, however long it takes; return how it ended."""
        if self._watch is not None:
            self._watch.join()
        return self._said

    def stop(self, *, within: float) -> None:
        """Wait so many seconds for the commit that is underway, then end it unfinished."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(within)
        _kill(process)
        if self._watch is not None:
            self._watch.join()

    def _report(self, process: "subprocess.Popen[str]") -> None:
        threading.Thread(target=self._end_in_time, args=(process,), daemon=True).start()
        assert process.stdout is not None
        with counting_as_tool(process.pid), process.stdout:
            said = process.stdout.read()
            process.wait()
        if said.strip():
            self._said = json.loads(said.splitlines()[-1])
            logger.info("the environment: %s", self._said)
        else:
            logger.info("the environment is not stored yet (status %d)", process.returncode)

    def _end_in_time(self, process: "subprocess.Popen[str]") -> None:
        while not self._is_ending():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CHECK_SECONDS)
                return
        _kill(process)


def _kill(process: "subprocess.Popen[str]") -> None:
    """Kill a commit with its compiler; what it has stored helps the next one."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
