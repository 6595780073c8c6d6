"""The real existing_instance.sh: the machine stays up, and nothing is left on it."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.agent.test_bootstrap import SCRIPT, Boot

COMMAND = SCRIPT.with_name("existing_instance.sh")
pytestmark = pytest.mark.slow


class ExistingInstance(Boot):
    """A machine that receives commands instead of user data."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.script = root / "command.sh"
        self.script.write_text(f"{SCRIPT.read_text()}\n{COMMAND.read_text()}")
        systemctl = root / "bin/systemctl"
        systemctl.write_text(
            f'#!/bin/sh\necho "systemctl $*" >> "{root}/calls"\n'
            f'[ "$1" != is-active ] || [ -e "{root}/active" ]\n'
        )

    def command(self, action: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(RUNCTL_ACTION=action, **variables)

    def start(self, run_id: str, attempt: int = 1) -> subprocess.CompletedProcess[str]:
        return self.command("start", RUNCTL_RUN_ID=run_id, RUNCTL_ATTEMPT=str(attempt))


def restarts(existing: ExistingInstance) -> int:
    return existing.calls().count("systemctl restart runctl-agent.service")


def test_the_agent_is_started_for_the_attempt_and_no_timer_ends_the_machine(
    existing: ExistingInstance,
) -> None:
    assert existing.start("run-1").returncode == 0
    settings = (existing.root / "etc/runctl/agent.env").read_text()
    assert "RUNCTL_RUN_ID=run-1\n" in settings
    assert "RUNCTL_ATTEMPT=1\n" in settings
    assert restarts(existing) == 1
    assert not list(existing.root.rglob("runctl-deadman*"))
    assert not any(call.startswith("shutdown") for call in existing.calls())


def test_starting_twice_leaves_the_agent_that_works_alone(existing: ExistingInstance) -> None:
    existing.start("run-1")
    (existing.root / "active").touch()
    again = existing.start("run-1")
    assert again.returncode == 0
    assert "already works on attempt 1 of run-1" in again.stderr
    assert restarts(existing) == 1
    assert existing.store.requests == 1


def test_an_attempt_that_was_reported_is_not_started_again(existing: ExistingInstance) -> None:
    existing.start("run-1")
    (existing.root / "run/runctl/reported").touch()
    assert existing.start("run-1").returncode == 0
    assert restarts(existing) == 1


def test_nothing_of_the_previous_run_reaches_the_next_one(existing: ExistingInstance) -> None:
    existing.start("run-1")
    state = existing.root / "var/lib/runctl"
    for name in ("checkpoint/a.pt", "project/train.py", "environments/abc/ready"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).touch()
    (existing.root / "run/runctl/reported").touch()
    assert existing.start("run-2").returncode == 0
    assert sorted(path.name for path in state.iterdir()) == ["environments"]
    assert (state / "environments/abc/ready").exists()
    assert not (existing.root / "run/runctl/reported").exists()
    assert restarts(existing) == 2


def test_a_role_without_our_policy_ends_the_command_and_not_the_machine(
    existing: ExistingInstance,
) -> None:
    existing.store.failures = [403, 403, 403, 403]
    done = existing.command("check")
    assert done.returncode == 1
    assert "403" in done.stderr
    assert not any(call.startswith("shutdown") for call in existing.calls())


def test_a_role_that_lacks_something_starts_nothing_and_empties_nothing(
    existing: ExistingInstance,
) -> None:
    assert existing.start("run-1").returncode == 0
    (existing.root / "run/runctl/reported").touch()
    kept = existing.root / "var/lib/runctl/checkpoint/a.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (existing.root / "refuses").touch()
    done = existing.start("run-2")
    assert done.returncode == 1
    assert "the instance cannot run an attempt" in done.stderr
    assert restarts(existing) == 1
    assert kept.exists()
    assert not any(call.startswith("shutdown") for call in existing.calls())
    (existing.root / "refuses").unlink()
    assert existing.start("run-2").returncode == 0
    assert restarts(existing) == 2


def test_an_invalid_run_name_is_refused(existing: ExistingInstance) -> None:
    assert existing.start("no/run").returncode == 1
    assert restarts(existing) == 0


def test_a_machine_that_is_kept_waits_for_runs_and_ends_only_after_its_time(
    existing: ExistingInstance,
) -> None:
    until = datetime.now(timezone.utc) + timedelta(hours=2)
    existing.metadata.values["tags/instance/runctl:keep-alive-until"] = (
        f"{until:%Y-%m-%dT%H:%M:%SZ}"
    )
    existing.script.write_text(SCRIPT.read_text())
    done = existing.run()
    assert done.returncode == 0
    assert "waiting for a run" in done.stderr
    assert restarts(existing) == 0
    keep = existing.root / "etc/runctl/keep-until"
    assert int(keep.read_text()) == int(until.timestamp())
    uptime = existing.root / "uptime"
    uptime.write_text("99999999.00 1.00\n")
    check = [str(existing.root / "opt/runctl/bin/runctl-deadman")]
    environ = {
        "PATH": f"{existing.root / 'bin'}:/usr/bin:/bin",
        "RUNCTL_UPTIME_FILE": str(uptime),
        "RUNCTL_FLUSH_SECONDS": "0",
    }
    subprocess.run(check, env=environ, check=True, timeout=240)
    assert "shutdown -h now" not in existing.calls()
    keep.write_text("1\n")
    subprocess.run(check, env=environ, check=True, timeout=240)
    assert "shutdown -h now" in existing.calls()
