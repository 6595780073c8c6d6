"""An agent and its session: how it starts with one, goes on with another, and ends without."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.model.group import WarmStage
from runctl.model.node import NodeId
from runctl.model.run import Warm
from tests.agent.machine import ARN, Cloud, now, wait_until

pytestmark = pytest.mark.slow

TRAINS = "print('trained')"


def console(machine) -> str:
    path = machine.root / "run/runctl/console"
    return path.read_text() if path.exists() else ""


def purposes(cloud: Cloud) -> list[str]:
    return [event["purpose"] for event in cloud.sessions.events]


def test_agent_signs_with_its_session_and_logs_no_secret(cloud: Cloud, launch) -> None:
    cloud.create_run(TRAINS)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome()["kind"] == "completed"
    assert machine.wait() == 0
    assert set(purposes(cloud)) == {"agent"}
    said = machine.agent_log() + (machine.state / "log/agent.log").read_text()
    assert "credentials for attempt 1 of run-1 until " in said
    for secret in ("secret-of-agent", "token-of-agent", "not-a-secret", "X-Amz-Signature"):
        assert secret not in said


def test_agent_that_boots_before_its_launch_is_recorded_waits_for_that(
    cloud: Cloud, launch
) -> None:
    cloud.create_run(TRAINS)
    machine = launch()
    wait_until(lambda: len(cloud.sessions.events) > 3)
    assert cloud.sessions.events[-1]["claimed"] == {"run_id": "run-1", "attempt": 1}
    cloud.open_attempt()
    cloud.give_token()
    assert cloud.outcome()["kind"] == "completed"
    assert machine.wait() == 0
    assert "the ledger does not know this instance yet; trying again" in machine.agent_log()


@pytest.mark.parametrize("status", ["over", "refused"])
def test_agent_without_a_session_says_why_and_ends_its_machine(
    cloud: Cloud, launch, status: str
) -> None:
    cloud.sessions.refusals["agent"] = {"status": status, "reason": "because of the test"}
    cloud.create_run(TRAINS)
    machine = launch()
    assert machine.wait() == 0
    assert machine.shut_down
    assert "because of the test" in machine.agent_log()
    assert "because of the test" in console(machine)


def test_agent_without_a_session_does_not_end_the_machine_of_somebody(cloud: Cloud, launch) -> None:
    cloud.sessions.refusals["agent"] = {"status": "over", "reason": "the run has ended"}
    cloud.create_run(TRAINS)
    machine = launch(variables={"RUNCTL_RUN_ID": "run-1", "RUNCTL_ATTEMPT": "1"})
    assert machine.wait() == 0
    assert not machine.shut_down
    assert "the run has ended" in console(machine)


def test_machine_of_somebody_that_works_on_another_run_now_leaves_this_one(
    cloud: Cloud, launch
) -> None:
    cloud.create_run(TRAINS)
    cloud.sessions.find = lambda _instance_id: NodeId("run-2", 1, 0)
    machine = launch(variables={"RUNCTL_RUN_ID": "run-1", "RUNCTL_ATTEMPT": "1"})
    assert machine.wait() == 0
    assert not machine.shut_down
    assert "works on attempt 1 of run-2 now" in machine.agent_log()


def test_stop_ends_an_agent_that_waits_for_its_session(cloud: Cloud, launch) -> None:
    cloud.create_run(TRAINS)
    machine = launch()
    wait_until(lambda: cloud.sessions.events)
    machine.ask("stop")
    assert machine.wait() == 0
    assert machine.shut_down


def test_function_that_fails_delays_the_attempt_and_does_not_end_it(cloud: Cloud, launch) -> None:
    cloud.sessions.failures = [429, 500, 403]
    cloud.create_run(TRAINS)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome()["kind"] == "completed"
    assert machine.wait() == 0


def test_sessions_of_seconds_are_renewed_as_long_as_the_trainer_runs(cloud: Cloud, launch) -> None:
    cloud.sessions.lifetime = timedelta(seconds=8)
    cloud.create_run("import time\ntime.sleep(1000)")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: cloud.attempt().timeline.get("started"))
    began = len(cloud.sessions.events)
    wait_until(lambda: len(cloud.sessions.events) > began + 3)
    # After the last session has expired, nothing of the attempt would reach AWS.
    machine.ask("stop")
    assert cloud.outcome()["kind"] == "stopped"
    assert machine.wait() == 0


def test_agent_started_again_after_a_claim_goes_on_with_the_next_run(cloud: Cloud, launch) -> None:
    cloud.create_run(TRAINS, group="group")
    cloud.open_attempt()
    cloud.give_token()
    groups = DynamoGroupLedger(cloud.clients["dynamodb"], cloud.name)
    machine = launch()
    cloud.tokens.wait_for(lambda: cloud.tokens.reports)

    def find():
        return groups.find_warm("group", "i-1")

    wait_until(lambda: (held := find()) and held.stage is WarmStage.OFFERED)
    machine.kill_agent()
    assert groups.keep_warm(
        "group", "i-1", node=NodeId("run-1", 1, 0), pool="a/b/spot", keep_seconds=60, now=now()
    )
    cloud.run_id = "run-2"
    cloud.create_run(TRAINS, group="group")
    cloud.ledger.open_attempt("run-2", 1, launch_try=1, source=Warm("i-1"), now=now())
    groups.claim_warm(find(), "run-2", 1, now=now())
    cloud.tokens.valid.add("token-run-2")
    cloud.ledger.record_token("run-2", 1, token="token-run-2", execution_arn=ARN, now=now())
    machine.start()
    cloud.tokens.wait_for(lambda: len(cloud.tokens.reports) == 2)
    assert "the ledger has another attempt for this instance, 1 of run-2" in machine.agent_log()
    assignment = json.loads((machine.state / "assignment.json").read_text())
    assert assignment["run_id"] == "run-2"
