"""Runs of a group on one instance, one after the other, with the real state machine and agent."""

import threading

import pytest

from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.aws.services import SystemClock
from runctl.control.ending_groups import end_group
from runctl.model.group import Group, WarmStage
from runctl.model.outcome import OutcomeKind, RunStatus
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

# Takes three steps, and waits after the second until the file GATE exists, if that is set.
PROGRAM = """
import os, pathlib, time
gate = os.environ.get("GATE")
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
done = len(list(folder.glob("step-*")))
for step in range(done, 3):
    folder.joinpath(f"step-{step}").write_text("x")
    print("step", step, "of", os.environ["RUNCTL_RUN_ID"], flush=True)
    while gate and step == 1 and not pathlib.Path(gate).exists():
        time.sleep(0.05)
names = sorted(path.name for path in pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"]).iterdir())
print("outputs before:", names, flush=True)
pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], os.environ["RUNCTL_RUN_ID"]).write_text("mine")
"""


@pytest.fixture
def groups(testbed: Testbed):
    return DynamoGroupLedger(testbed.clients.get("dynamodb"), testbed.deployment.table)


@pytest.fixture
def group(testbed: Testbed, groups, new_name):
    """A group whose parent is this test."""
    name = new_name()
    groups.create_group(
        Group(
            group_id=name,
            kind="sweep",
            execution=name,
            execution_arn=f"{testbed.deployment.state_machine_arn}:{name}".replace(
                ":stateMachine:", ":execution:"
            ),
            started_at=SystemClock().now(),
        )
    )
    yield name
    for warm in groups.list_warm(name):
        groups.leave_warm(name, warm.instance_id, node=warm.node, now=SystemClock().now())


def start(testbed, group, number, **env):
    request = {
        "script": "train.py",
        "code": testbed.upload_project({"train.py": PROGRAM}),
        "instance_types": ["m5.large"],
        "group": group,
        "env": env,
    }
    return testbed.start(request, name=f"{group}-{number:04d}")


def instance_of(testbed, run_id, attempt=1):
    return testbed.attempts(run_id)[attempt - 1].instance_ids[0]


def test_runs_follow_one_another_on_one_instance_and_an_interruption_ends_only_that(
    testbed: Testbed, groups, group, tmp_path
):
    first = start(testbed, group, 1)
    testbed.wait_for_training_completion(first)
    instance = instance_of(testbed, first)
    assert groups.find_warm(group, instance).stage is WarmStage.WAITING

    second = start(testbed, group, 2)
    testbed.wait_for_training_completion(second)
    assert instance_of(testbed, second) == instance
    (before,) = [line for line in testbed.log(second, 1) if line.startswith("outputs before")]
    assert first not in before
    assert testbed.output(second, second) == b"mine"

    gate = tmp_path / "gate"
    third = start(testbed, group, 3, GATE=str(gate))
    testbed.wait_for_training(third, attempt=1)
    assert instance_of(testbed, third) == instance
    testbed.simulate_spot_interruption(third, attempt=1, notice=False)
    testbed.wait_for_training(third, attempt=2)
    gate.touch()
    testbed.wait_for_training_completion(third)
    ends = [attempt.ended.kind for attempt in testbed.attempts(third)]
    assert ends[-1] is OutcomeKind.COMPLETED
    other = instance_of(testbed, third, 2)
    assert other != instance
    assert groups.find_warm(group, instance).stage is WarmStage.CLAIMED
    assert groups.find_warm(group, other).stage is WarmStage.WAITING

    # The end of the group: its instance shuts itself down.
    end_group(
        _Services(testbed, groups), group, status=RunStatus.COMPLETED, reason="all runs have ended"
    )
    testbed.wait_for_no_instance(third)
    testbed.wait_for_no_instance(first)


def test_two_runs_that_start_at_once_do_not_share_an_instance(
    testbed: Testbed, groups, group, tmp_path
):
    first = start(testbed, group, 1)
    testbed.wait_for_training_completion(first)
    gate = tmp_path / "gate"
    names = []
    threads = [
        threading.Thread(
            target=lambda at=number: names.append(start(testbed, group, at, GATE=str(gate)))
        )
        for number in (2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        testbed.wait_for_training(name, attempt=1)
    used = [instance_of(testbed, name) for name in names]
    assert len(set(used)) == 2
    assert instance_of(testbed, first) in used
    # A notice to one of them withdraws nothing of the other.
    gate.touch()
    for name in names:
        testbed.wait_for_training_completion(name)
    wait_for(
        lambda: all(warm.stage is WarmStage.WAITING for warm in groups.list_warm(group)),
        "both instances to wait",
    )


class _Services:
    """The services that the end of a group needs, with the rights of the test."""

    def __init__(self, testbed: Testbed, groups) -> None:
        self.clock, self.ledger, self.groups = SystemClock(), testbed.ledger, groups
        self.workflow = testbed.workflow
        self.notices = self

    def publish(self, *, subject: str, body: str) -> None:
        assert subject
        assert body
