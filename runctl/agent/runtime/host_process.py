"""The process that runs a trainer on this machine, with everything that it starts."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.instance.as_user import OOM_SCORE
from runctl.agent.runtime.family import AgentDescendants, Family, SessionMembers
from runctl.agent.runtime.lead_process import LeadEnd, Printed
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.trainer_user import starting
from runctl.model.errors import RequestError

# The first processes of all programs, which their own threads wait for. The lock is held from a
# start until the process is among them, and while orphans are collected.
_leads: set[int] = set()
_LEADS = threading.Lock()


class HostProcess:
    """The process of a program, and its descendants. It writes to files, never waiting for us."""

    def __init__(self, contract: Contract, *, on_exit: Callable[[], None]) -> None:
        self.printed = Printed(contract)
        self.end = LeadEnd(contract.command, on_exit=on_exit)
        with _LEADS:
            self._process = _start(contract)
            _leads.add(self.pid)
        self.family: Family = (
            SessionMembers(self.pid) if contract.is_one_of_many else AgentDescendants()
        )
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
        with _LEADS:
            processes.reap_orphans(*_leads)

    def kill_family(self, folder: Path) -> processes.KilledTree:
        """SIGKILL all that is left of it; return what that was and what it wrote in `folder`."""
        killed = processes.end_all(self.family.pids, reap=self.reap, folder=folder)
        self._waiting.join(timeout=5)
        return killed

    def problem(self) -> str:
        """Return "": the exit code of a process of this machine says all."""
        return ""

    def _wait(self) -> None:
        code = self._process.wait()
        with _LEADS:
            _leads.discard(self.pid)
        self.end.note_exit(code)


def _start(contract: Contract) -> "subprocess.Popen[bytes]":
    try:
        variables = {**contract.environment, **contract.credentials}
        with (
            contract.output.open("ab") as out,
            contract.errors.open("ab") as err,
            starting(contract.user, contract.command, variables) as start,
        ):
            if contract.user is not None:
                # A program may open /dev/stdout, which is this file.
                os.fchown(out.fileno(), *contract.user.owner)
                os.fchown(err.fileno(), *contract.user.owner)
            return subprocess.Popen(
                start.words,
                stdin=start.stdin,
                stdout=out,
                stderr=err,
                env=start.environment,
                cwd=contract.working_folder,
                start_new_session=True,
            )
    except OSError as exc:
        raise RequestError(f"{contract.command[0]!r} cannot be started: {exc.strerror}") from exc
