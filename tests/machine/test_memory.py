"""A machine with too little memory: the kernel kills a worker of the trainer, or the trainer."""

from __future__ import annotations

import pytest

from runctl.model.outcome import OutcomeKind
from tests.machine.machines import Machines

pytestmark = pytest.mark.e2e

MEMORY_BYTES = 500 << 20
# In Python alone: a data loader's worker that takes more than there is, and then the same at home.
PROGRAM = """
import os, socket

def take_all():
    taken = []
    while True:
        taken.append(b"x" * (8 << 20))

worker = os.fork()
if not worker:
    take_all()
print("worker ended with", os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
try:
    socket.create_connection(("169.254.169.254", 80), timeout=3).close()
    print("metadata service reached", flush=True)
except ConnectionRefusedError:
    print("metadata service refused", flush=True)
take_all()
"""


def test_a_worker_without_memory_does_not_end_its_trainer_and_a_trainer_has_failed(
    machines: Machines,
) -> None:
    machines.testbed.cloud.set_knobs(environment={"RUNCTL_MACHINE_MEMORY": str(MEMORY_BYTES)})
    run = machines.start(PROGRAM)
    status = run.wait_for_end()
    machines.testbed.cloud.set_knobs(environment={})

    story = run.testbed.story(run.run_id)
    (attempt,) = run.testbed.attempts(run.run_id)
    assert status == "FAILED", story
    log = run.testbed.log(run.run_id, 1)
    assert "worker ended with -9" in log, story
    assert "metadata service refused" in log, story
    assert attempt.ended is not None
    assert (attempt.ended.kind, attempt.ended.exit_code) == (OutcomeKind.FAILED, -9), story
    assert "memory" in attempt.ended.reason, story
    assert any("for lack of memory" in line for line in run.testbed.agent_log(run.run_id, 1)), story
