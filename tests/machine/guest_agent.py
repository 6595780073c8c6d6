"""The program of `runctl-agent.service` on a machine with a kernel of its own; see `own_kernel`.

It starts trainers as the agent does, lets them run out of memory, and writes what it has seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from runctl.agent.instance.processes import become_subreaper
from runctl.agent.program_outcome import EndedProgram, outcome_of_exit
from runctl.agent.runtime import trainer_user
from runctl.agent.runtime.host_runtime import HostRuntime
from runctl.agent.runtime.ports import Contract, Program
from runctl.agent.runtime.systemd_scope import AGENT_UNIT, SLICE, scope
from runctl.agent.runtime.trainer_user import TrainerUser
from tests.agent_settings import make_settings

PLACE = Path("/var/lib/runctl")
OOM_MESSAGE = "A process of this unit has been killed by the OOM killer."
# One of two workers takes all memory. The trainer saves afterwards, and if it gets a SIGTERM. It
# ends when systemd has noticed.
WITH_WORKERS = """
import os, signal, sys, time

def save(how):
    with open("../checkpoint/saved", "w") as file:
        file.write(how)

def end(*_):
    save("terminated")
    os._exit(0)

def take_all():
    taken = []
    while True:
        taken.append(b"x" * (4 << 20))

reading, writing = os.pipe()
patient = os.fork()
if not patient:
    os.close(writing)
    os.read(reading, 1)  # until the trainer lets it end
    os._exit(7)
signal.signal(signal.SIGTERM, end)
open("../checkpoint/ready", "w").close()
while not os.path.exists("../checkpoint/go"):
    time.sleep(0.05)
greedy = os.fork()
if not greedy:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    take_all()
code = os.waitstatus_to_exitcode(os.waitpid(greedy, 0)[1])
print("greedy worker:", code, flush=True)
deadline = time.monotonic() + 120
while not os.path.exists("../checkpoint/noticed") and time.monotonic() < deadline:
    time.sleep(0.05)
os.close(writing)
code = os.waitstatus_to_exitcode(os.waitpid(patient, 0)[1])
print("patient worker:", code, flush=True)
save("went on")
"""
ALONE = """
import os, time
open("../checkpoint/ready", "w").close()
while not os.path.exists("../checkpoint/go"):
    time.sleep(0.05)
taken = []
while True:
    taken.append(b"x" * (4 << 20))
"""


def run(name: str, source: str, user: TrainerUser, *, lets_go_on: bool = True) -> dict[str, Any]:
    """Run a trainer to its end; return what the agent knows about it.

    Unless it `lets_go_on`, only systemd ends a trainer that has lost a worker.
    """
    place = PLACE / name
    for folder in (place / "project", place / "checkpoint"):
        folder.mkdir(parents=True)
    contract = Contract(
        command=("/usr/bin/python3", "-c", source),
        environment={"PATH": os.environ["PATH"], **user.variables()},
        working_folder=place / "project",
        checkpoint=place / "checkpoint",
        output=place / "out",
        errors=place / "err",
        save_request=place / "request",
        grace=timedelta(seconds=10),
        written=(place / "project", place / "checkpoint"),
        owner=user.owner,
        user=user,
    )
    runtime = HostRuntime(on_exit=lambda: None)
    runtime.open()
    program = runtime.start(contract)
    warnings = follow(program, contract.checkpoint, lets_go_on=lets_go_on)
    program.kill()
    end = program.describe_exit()
    program.close()
    runtime.close()
    outcome = outcome_of_exit(EndedProgram(exit=end), mask=lambda text: text)
    saved = contract.checkpoint / "saved"
    return {
        "code": end.code,
        "outcome": [outcome.kind.value, outcome.reason] if outcome else None,
        "warnings": warnings,
        "printed": contract.output.read_text().splitlines(),
        "errors": contract.errors.read_text(),
        "saved": saved.read_text() if saved.exists() else "",
    }


def follow(program: Program, checkpoint: Path, *, lets_go_on: bool) -> list[str]:
    """Observe a program as the agent does, and let it begin once it is ready."""
    warnings = []
    noticed_before = kills_that_systemd_noticed()
    while program.exit_code is None:
        if warning := program.observe():
            warnings.append(warning)
        if (checkpoint / "ready").exists():
            (checkpoint / "go").touch()
        if warnings and lets_go_on and kills_that_systemd_noticed() > noticed_before:
            (checkpoint / "noticed").touch()
        time.sleep(0.1)
    return warnings


def kills_that_systemd_noticed() -> int:
    """Count the kills for lack of memory in scopes of which systemd has written."""
    words = ["journalctl", "--quiet", "--output=cat", "--unit=run-*.scope"]
    # While no scope has written anything, it fails.
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return done.stdout.count(OOM_MESSAGE)


def systemctl(*words: str) -> str:
    """Return what systemctl prints."""
    done = subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def with_the_default_policy() -> list[str]:
    """Return the words of a scope as they would be without a policy."""
    return [word for word in scope() if "OOMPolicy" not in word]


def main() -> None:
    """Run all cases, write the result, and switch the machine off, also after a failure."""
    try:
        observe_all_cases()
    finally:
        systemctl("--no-block", "poweroff")


def observe_all_cases() -> None:
    """Run all cases and write what was seen."""
    become_subreaper()
    settings = make_settings(Path("/"), trainer_user=sys.argv[2])
    user = trainer_user.find_user(settings)
    assert user is not None, "bootstrap.sh has made no user"
    trainer_user.begin_anew(user, settings.paths)
    found: dict[str, Any] = {"pid": os.getpid(), "cases": {}}
    cases = found["cases"]
    cases["worker"] = run("worker", WITH_WORKERS, user)
    cases["trainer"] = run("trainer", ALONE, user)
    with mock.patch.object(trainer_user, "scope", with_the_default_policy):
        cases["default"] = run("default", WITH_WORKERS, user, lets_go_on=False)
    systemctl("set-property", "--runtime", SLICE, "MemoryMax=80M")
    cases["limited"] = run("limited", WITH_WORKERS, user)
    lines = systemctl("show", AGENT_UNIT, "--property=MainPID,NRestarts,OOMScoreAdjust")
    found["unit"] = dict(line.split("=", 1) for line in lines.splitlines())
    found["score"] = Path("/proc/self/oom_score_adj").read_text().strip()
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
