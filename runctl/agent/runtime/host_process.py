"""The process that runs a trainer on this machine, with everything that it starts."""

import contextlib
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.runtime.family import AgentDescendants
from runctl.agent.runtime.lead_process import OOM_SCORE, LeadEnd, Printed
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.systemd_scope import scope
from runctl.model.errors import RequestError


class HostProcess:
    """The process of a program, and its descendants. It writes to files, never waiting for us."""

    def __init__(self, contract: Contract, *, on_exit: Callable[[], None]) -> None:
        self.family = AgentDescendants()
        self.printed = Printed(contract)
        self.end = LeadEnd(contract.command, on_exit=on_exit)
        try:
            with contract.output.open("ab") as out, contract.errors.open("ab") as err:
                self._process = subprocess.Popen(
                    [*scope(), *contract.command],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env={**contract.environment, **contract.credentials},
                    cwd=contract.working_folder,
                    start_new_session=True,
                )
        except OSError as exc:
            raise RequestError(
                f"{contract.command[0]!r} cannot be started: {exc.strerror}"
            ) from exc
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(str(OOM_SCORE))
        self._waiting = threading.Thread(target=self._wait, name="trainer", daemon=True)
        self._waiting.start()

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def watched(self) -> set[int]:
        """Return the processes that a SIGTERM from outside would be meant for."""
        return {self.pid, *self.family.pids()}

    def reap(self) -> None:
        """Collect orphans that have ended: the agent adopts them."""
        processes.reap_orphans(self.pid)

    def kill_family(self, folder: Path) -> processes.KilledTree:
        """SIGKILL all that is left of it; return what that was and what it wrote in `folder`."""
        killed = processes.end_all(self.family.pids, reap=self.reap, folder=folder)
        self._waiting.join(timeout=5)
        return killed

    def problem(self) -> str:
        """Return "": the exit code of a process of this machine says all."""
        return ""

    def _wait(self) -> None:
        self.end.note_exit(self._process.wait())
