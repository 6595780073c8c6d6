"""An instance that goes from one run of a group to the next, with a real agent."""

import json
import time
from dataclasses import replace

import pytest

from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.model.group import WarmStage
from runctl.model.node import NodeId
from runctl.model.run import Warm
from tests.agent.machine import ARN, now, wait_until

PROGRAM = """
    import json, os, pathlib, sys
    folders = {
        name: sorted(map(str, pathlib.Path(os.environ[name]).rglob("*")))
        for name in ("RUNCTL_CHECKPOINT_DIR", "RUNCTL_OUTPUT_DIR")
    }
    folders["project"] = sorted(os.listdir("."))
    folders["name"] = os.environ["RUNCTL_RUN_ID"]
    folders["secret"] = os.environ.get("SECRET", "")
    for name in ("RUNCTL_CHECKPOINT_DIR", "RUNCTL_OUTPUT_DIR"):
        pathlib.Path(os.environ[name], os.environ["RUNCTL_RUN_ID"]).write_text("mine")
    pathlib.Path("left-in-the-project").touch()
    pathlib.Path(os.environ["SEEN"]).open("a").write(json.dumps(folders) + "\\n")
    print("output of", os.environ["RUNCTL_RUN_ID"])
    sys.exit(int(os.environ.get("EXIT", "0")))
"""


class Group:
    """The control plane of a group: what FinishRun and LaunchInstances do for its runs."""

    def __init__(self, cloud, folder):
        self.cloud = cloud
        self.items = DynamoGroupLedger(cloud.clients["dynamodb"], cloud.name)
        self.seen = folder / "seen.jsonl"

    def create_run(self, run_id, **request):
        self.cloud.run_id = run_id
        env = {"SEEN": str(self.seen), **request.pop("env", {})}
        return self.cloud.create_run(PROGRAM, group="group", env=env, **request)

    def find(self):
        return self.items.find_warm("group", "i-1")

    def wait_for(self, stage):
        return wait_until(
            lambda: (held := self.find()) and held.stage is stage and held,
            why=f"the instance is not {stage.value}",
        )

    def wait_for_report(self, count):
        self.cloud.tokens.wait_for(lambda: len(self.cloud.tokens.reports) >= count, 60)

    def keep(self, run_id="run-1", seconds=60):
        self.wait_for(WarmStage.OFFERED)
        assert self.items.keep_warm(
            "group", "i-1", node=NodeId(run_id, 1, 0), pool="a/b/spot", keep_seconds=seconds,
            now=now(),
        )  # fmt: skip

    def claim(self, run_id="run-2"):
        self.cloud.ledger.open_attempt(run_id, 1, launch_try=1, source=Warm("i-1"), now=now())
        attempt = self.items.claim_warm(self.find(), run_id, 1, now=now())
        assert attempt.was_launched
        self.cloud.tokens.valid.add(f"token-{run_id}")
        self.cloud.ledger.record_token(
            run_id, 1, token=f"token-{run_id}", execution_arn=ARN, now=now()
        )

    def lines(self):
        return [json.loads(line) for line in self.seen.read_text().splitlines()]


@pytest.fixture
def group(cloud, tmp_path):
    return Group(cloud, tmp_path)


@pytest.fixture
def first(cloud, group, launch):
    """The machine of the first run, which has completed."""
    group.create_run("run-1")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    group.wait_for_report(1)
    return machine


def test_the_next_run_begins_on_the_same_agent_and_sees_nothing_of_the_last(cloud, group, first):
    agent = first.process.pid
    group.keep()
    group.create_run("run-2")
    group.claim()
    group.wait_for_report(2)
    assert [report["outcome"]["kind"] for report in cloud.tokens.reports] == ["completed"] * 2
    before, after = group.lines()
    assert after["name"] == "run-2"
    assert {**after, "name": ""} == {**before, "name": ""}
    assert not first.shut_down
    assert first.process.pid == agent
    # Its own marks, logs and outputs, under its own name.
    attempt = cloud.attempt()
    assert attempt.run_id == "run-2"
    assert {"booted", "started", "exited"} <= attempt.timeline.keys()
    assert min(attempt.timeline.values()) >= attempt.launched_at
    assert "runs/run-1/outputs/run-1" in cloud.keys("runs/")
    assert "runs/run-2/outputs/run-2" in cloud.keys("runs/")
    assert wait_until(
        lambda: any("output of run-2" in line for line in cloud.log("run-2/0001-000"))
    )
    assert not any("run-1" in line for line in cloud.log("run-2/0001-000"))
    held = group.wait_for(WarmStage.OFFERED)
    assert held.node == NodeId("run-2", 1, 0)


def test_the_environment_and_the_code_are_there_already(cloud, group, first):
    environments = first.state / "environments"
    known = {path: path.stat().st_ctime_ns for path in environments.iterdir()}
    group.keep()
    group.create_run("run-2")
    group.claim()
    group.wait_for_report(2)
    assert {path: path.stat().st_ctime_ns for path in environments.iterdir()} == known


def test_a_program_that_failed_leaves_a_usable_instance(cloud, group, launch):
    group.create_run("run-1", env={"EXIT": "3"})
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    group.wait_for_report(1)
    group.keep()
    group.create_run("run-2")
    group.claim()
    group.wait_for_report(2)
    kinds = [report["outcome"]["kind"] for report in cloud.tokens.reports]
    assert kinds == ["failed", "completed"]
    assert not machine.shut_down


def test_an_instance_that_could_not_start_the_program_is_not_offered(cloud, group, launch):
    group.create_run("run-1", script="missing.py")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    machine.wait()
    assert machine.shut_down
    assert group.find() is None


def test_an_instance_without_a_group_ends_with_its_run(cloud, group, launch):
    cloud.create_run(PROGRAM, env={"SEEN": str(group.seen)})
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    machine.wait()
    assert machine.shut_down
    assert group.find() is None


def test_an_instance_that_is_dismissed_ends(group, first):
    group.keep()
    group.items.leave_warm("group", "i-1", node=NodeId("run-1", 1, 0), now=now())
    first.wait()
    assert first.shut_down


def test_a_notice_withdraws_the_instance_and_leaves_it_to_ec2(group, first):
    group.keep()
    first.metadata.give_notice()
    first.wait()
    assert group.find().stage is WarmStage.LEFT
    assert not first.shut_down


def test_a_shutdown_withdraws_the_instance(group, first):
    group.keep()
    first.process.terminate()
    first.wait()
    assert group.find().stage is WarmStage.LEFT


def test_an_agent_that_is_killed_while_it_waits_takes_what_was_claimed_meanwhile(
    cloud, group, first
):
    group.keep()
    wait_until((first.root / "run/runctl/reported").exists)
    first.kill_agent()
    group.create_run("run-2")
    group.claim()
    first.start()
    group.wait_for_report(2)
    assert [line["name"] for line in group.lines()] == ["run-1", "run-2"]


def test_an_agent_that_is_killed_in_its_second_run_goes_on_with_that(cloud, group, first):
    group.keep()
    group.create_run("run-2", env={"EXIT": "0"})
    # The agent takes the attempt, and waits for a token that comes late.
    cloud.ledger.open_attempt("run-2", 1, launch_try=1, source=Warm("i-1"), now=now())
    assert group.items.claim_warm(group.find(), "run-2", 1, now=now()).was_launched
    wait_until((first.state / "assignment.json").exists)
    first.kill_agent()
    first.start()
    cloud.give_token(token="token-run-2")
    group.wait_for_report(2)
    assert [line["name"] for line in group.lines()] == ["run-1", "run-2"]


def test_secrets_and_requests_of_the_last_run_are_gone(cloud, group, first):
    (first.root / "run/runctl/docker").mkdir(exist_ok=True)
    (first.root / "run/runctl/docker/config.json").write_text("{}")
    group.keep()
    wait_until(lambda: not (first.root / "run/runctl/docker").exists())
    wait_until((first.state / "output").is_dir)  # it is made anew
    assert not list((first.state / "output").iterdir())
    assert not (first.state / "log/trainer.out").exists()


def test_the_time_to_wait_is_limited(group, first, monkeypatch):
    began = time.monotonic()
    group.keep(seconds=1)
    first.wait()
    assert group.find().stage is WarmStage.LEFT
    assert first.shut_down
    assert time.monotonic() > began


def test_a_machine_of_another_owner_is_not_offered(cloud, group, launch):
    group.create_run("run-1")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch(variables={"RUNCTL_RUN_ID": "run-1", "RUNCTL_ATTEMPT": "1"})
    machine.wait()
    assert not machine.shut_down
    assert group.find() is None


def test_the_offer_of_a_node_is_not_taken_for_another(group, first):
    held = group.wait_for(WarmStage.OFFERED)
    other = replace(held, node=NodeId("run-9", 1, 0))
    assert group.items.offer_warm(other) == held
