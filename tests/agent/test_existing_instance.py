"""lend.sh for real: on a machine that is somebody's, nothing is ended and nothing is left over."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.agent.test_bootstrap import SCRIPT, Boot

LEND = SCRIPT.with_name("lend.sh")
pytestmark = pytest.mark.slow


class Lent(Boot):
    """A machine that gets commands instead of user data."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.script = root / "command.sh"
        self.script.write_text(f"{SCRIPT.read_text()}\n{LEND.read_text()}")
        systemctl = root / "bin/systemctl"
        systemctl.write_text(
            f'#!/bin/sh\necho "systemctl $*" >> "{root}/calls"\n'
            f'[ "$1" != is-active ] || [ -e "{root}/active" ]\n'
        )

    def command(self, action: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(RUNCTL_ACTION=action, **variables)

    def start(self, run_id: str, attempt: int = 1) -> subprocess.CompletedProcess[str]:
        return self.command("start", RUNCTL_RUN_ID=run_id, RUNCTL_ATTEMPT=str(attempt))


def restarts(lent: Lent) -> int:
    return lent.calls().count("systemctl restart runctl-agent.service")


def test_the_agent_is_started_for_the_attempt_and_no_timer_ends_the_machine(lent: Lent) -> None:
    assert lent.start("run-1").returncode == 0
    settings = (lent.root / "etc/runctl/agent.env").read_text()
    assert "RUNCTL_RUN_ID=run-1\n" in settings
    assert "RUNCTL_ATTEMPT=1\n" in settings
    assert restarts(lent) == 1
    assert not list(lent.root.rglob("runctl-deadman*"))
    assert not any(call.startswith("shutdown") for call in lent.calls())


def test_starting_twice_leaves_the_agent_that_works_alone(lent: Lent) -> None:
    lent.start("run-1")
    (lent.root / "active").touch()
    again = lent.start("run-1")
    assert again.returncode == 0
    assert "already works on attempt 1 of run-1" in again.stderr
    assert restarts(lent) == 1
    assert lent.store.requests == 1


def test_an_attempt_that_was_reported_is_not_begun_again(lent: Lent) -> None:
    lent.start("run-1")
    (lent.root / "run/runctl/reported").touch()
    assert lent.start("run-1").returncode == 0
    assert restarts(lent) == 1


def test_nothing_of_the_run_before_reaches_the_next_one(lent: Lent) -> None:
    lent.start("run-1")
    state = lent.root / "var/lib/runctl"
    for name in ("checkpoint/a.pt", "project/train.py", "environments/abc/ready"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).touch()
    (lent.root / "run/runctl/reported").touch()
    assert lent.start("run-2").returncode == 0
    assert sorted(path.name for path in state.iterdir()) == ["environments"]
    assert (state / "environments/abc/ready").exists()
    assert not (lent.root / "run/runctl/reported").exists()
    assert restarts(lent) == 2


def test_a_role_without_our_policy_ends_the_command_and_not_the_machine(lent: Lent) -> None:
    lent.store.failures = [403, 403, 403, 403]
    done = lent.command("check")
    assert done.returncode == 1
    assert "403" in done.stderr
    assert not any(call.startswith("shutdown") for call in lent.calls())


def test_a_role_that_lacks_something_starts_nothing_and_empties_nothing(lent: Lent) -> None:
    assert lent.start("run-1").returncode == 0
    (lent.root / "run/runctl/reported").touch()
    kept = lent.root / "var/lib/runctl/checkpoint/a.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (lent.root / "refuses").touch()
    done = lent.start("run-2")
    assert done.returncode == 1
    assert "the instance cannot run an attempt" in done.stderr
    assert restarts(lent) == 1
    assert kept.exists()
    assert not any(call.startswith("shutdown") for call in lent.calls())
    (lent.root / "refuses").unlink()
    assert lent.start("run-2").returncode == 0
    assert restarts(lent) == 2


def test_a_run_that_is_none_is_refused(lent: Lent) -> None:
    assert lent.start("no/run").returncode == 1
    assert restarts(lent) == 0


def test_a_machine_that_is_kept_waits_for_runs_and_ends_only_after_its_time(lent: Lent) -> None:
    until = datetime.now(timezone.utc) + timedelta(hours=2)
    lent.metadata.values["tags/instance/runctl:keep-alive-until"] = f"{until:%Y-%m-%dT%H:%M:%SZ}"
    lent.script.write_text(SCRIPT.read_text())
    done = lent.run()
    assert done.returncode == 0
    assert "waiting for a run" in done.stderr
    assert restarts(lent) == 0
    keep = lent.root / "etc/runctl/keep-until"
    assert int(keep.read_text()) == int(until.timestamp())
    uptime = lent.root / "uptime"
    uptime.write_text("99999999.00 1.00\n")
    look = [str(lent.root / "opt/runctl/bin/runctl-deadman")]
    environ = {
        "PATH": f"{lent.root / 'bin'}:/usr/bin:/bin",
        "RUNCTL_UPTIME_FILE": str(uptime),
        "RUNCTL_FLUSH_SECONDS": "0",
    }
    subprocess.run(look, env=environ, check=True, timeout=240)
    assert "shutdown -h now" not in lent.calls()
    keep.write_text("1\n")
    subprocess.run(look, env=environ, check=True, timeout=240)
    assert "shutdown -h now" in lent.calls()
