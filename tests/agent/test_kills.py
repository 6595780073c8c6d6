"""SIGKILL to the agent in every phase of a save, a restore and a drain."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from runctl.fault_points import DRAIN, RESTORE, SAVE
from runctl.model.outcome import Outcome, OutcomeKind
from tests.agent.machine import Cloud, Machine, now, wait_until
from tests.agent.stepping import (
    begin,
    check_whole,
    finish,
    let_continue,
    let_end,
    lose,
    seed,
    words,
)

pytestmark = pytest.mark.slow


def await_kill(machine: Machine) -> None:
    assert machine.process is not None
    code = machine.process.wait(120)
    assert code == -signal.SIGKILL, f"{machine.fault} was not reached: {machine.agent_log()}"


def last_committed(machine: Machine) -> int:
    """Return the last step that the agent logged as committed, which it does afterwards."""
    found = re.findall(r"committed step (\d+)", machine.agent_log())
    return int(found[-1])


def start_again(machine: Machine) -> None:
    """Restart the agent, as systemd does."""
    machine.fault = ""
    machine.start()


@pytest.mark.parametrize("point", SAVE)
def test_agent_killed_in_a_save_continues_from_the_last_whole_one(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud, WAIT="1")
    cloud.give_token()
    # The second part is a later save's, after the bundle of the shared file and the first step.
    count = 1 if "old" in point else 2
    machine = launch(fault=f"{point}:{count}")
    let_continue(cloud, machine)
    await_kill(machine)
    step = check_whole(cloud, tmp_path)
    logged = last_committed(machine)
    assert step >= logged if point == "save.committed" else step == logged > 0
    start_again(machine)
    let_end(machine)
    finish(cloud, tmp_path)
    assert f"from {step} " in words(machine)
    assert "another trainer" not in words(machine)


@pytest.mark.parametrize("point", ["save.first_part_stored", "save.parts_stored", "save.committed"])
def test_another_machine_continues_where_a_killed_one_saved(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud, WAIT="1")
    cloud.give_token()
    machine = launch(fault=f"{point}:2")
    let_continue(cloud, machine)
    await_kill(machine)
    machine.end()
    step = check_whole(cloud, tmp_path)
    lose(cloud, 1)
    second = launch(attempt=2)
    finish(cloud, tmp_path)
    assert words(second).startswith(f"from {step} ['shared.bin', 'step-{step}.bin']")


@pytest.mark.parametrize("point", RESTORE)
def test_agent_killed_in_a_restore_restores_again(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud)
    cloud.give_token()
    seed(cloud, tmp_path, step=3)
    lose(cloud, 1)
    machine = launch(attempt=2, fault=point)
    await_kill(machine)
    assert words(machine) == ""
    assert check_whole(cloud, tmp_path) == 3
    start_again(machine)
    finish(cloud, tmp_path)
    assert words(machine).startswith("from 3 ['shared.bin', 'step-3.bin']")


@pytest.mark.parametrize("point", DRAIN)
def test_agent_killed_in_a_drain_loses_no_whole_checkpoint(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud, HOLD_AT="2")
    cloud.give_token()
    machine = launch(fault=point)
    wait_until(lambda: cloud.run().step == 2)
    machine.metadata.give_notice(seconds=60)
    await_kill(machine)
    step = check_whole(cloud, tmp_path)
    assert step in {2, 3}
    if point in {"drain.saved", "drain.reported"}:
        assert step == 3
    if point == "drain.reported":  # then ConfirmCheckpoint reads it
        cloud.ledger.end_attempt(
            cloud.run_id, 1, outcome=Outcome(kind=OutcomeKind.INTERRUPTED, step=step), now=now()
        )
    start_again(machine)
    reports = cloud.tokens.wait_for(lambda: cloud.tokens.reports)
    assert [report["outcome"]["kind"] for report in reports] == ["interrupted"]
    assert machine.wait() == 0
    assert not machine.shut_down  # EC2 takes it, and charges nothing if runctl waits
    step = check_whole(cloud, tmp_path)
    lose(cloud, 1)
    second = launch(attempt=2)
    finish(cloud, tmp_path)
    assert words(second).startswith(f"from {step} ")
    assert "another trainer" not in words(machine)
