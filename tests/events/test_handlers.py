"""Handlers, from the events of AWS and the payloads of the state machine to their results."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.errors import InvalidRequestError
from runctl.model.pool import MachineKind, Pool
from runctl.model.root_volume import RootVolume
from runctl.policy.environments import EnvironmentObject
from tests.control.fakes import START
from tests.control.scenes import ARN, REQUEST, RUN, launched, training
from tests.events.conftest import HANDLERS, recorded


def test_a_warning_about_one_of_ours_relaunches(world, invoke):
    instance_id = training(world)
    event = recorded("interruption-warning", instance_id=instance_id)
    known = {
        "event": "interruption",
        "instance_id": instance_id,
        "run_id": RUN,
        "attempt": 1,
        "status": "relaunched",
        "agent_reached": True,
    }
    assert invoke("handle_interruption", event) == known
    assert invoke("handle_interruption", event) == known
    assert len(world.fleet.machines) == 2


@pytest.mark.parametrize("name", ["reservation-warning", "capacity-block-warning"])
def test_a_warning_of_a_capacity_reservation_is_a_notice_with_its_deadline(world, invoke, name):
    """The metadata does not show it, so only the command informs the agent."""
    instance_id = training(world)
    for _ in range(2):
        handled = invoke("handle_interruption", recorded(name, instance_id=instance_id))
        assert handled["event"] == "reservation"
        assert (handled["status"], handled["agent_reached"]) == ("relaunched", True)
    assert world.commands.sent == 2 * [(instance_id, "drain")]
    assert world.commands.deadlines == 2 * [datetime(2030, 1, 1, 12, 2, tzinfo=timezone.utc)]
    assert len(world.fleet.machines) == 2
    assert world.ledger.find_attempt(RUN, 1).noticed_at is not None
    assert world.fleet.terminated == []


@pytest.mark.parametrize("action", ["stop", "hibernate", "something-new", None, 7])
def test_a_warning_is_a_notice_whatever_ec2_will_do(world, invoke, action):
    event = recorded("reservation-warning", instance_id=training(world), instance_action=action)
    assert invoke("handle_interruption", event)["status"] == "relaunched"


@pytest.mark.parametrize("deadline", ["soon", "", None, 120, "2030-13-01T00:00:00Z"])
def test_a_deadline_that_cannot_be_read_is_left_to_the_agent(world, invoke, deadline):
    event = recorded(
        "reservation-warning", instance_id=training(world), instance_termination_time=deadline
    )
    assert invoke("handle_interruption", event)["status"] == "relaunched"
    assert world.commands.deadlines == [None]


@pytest.mark.parametrize(
    "detail",
    [None, [], "terminated", {}, {"instance-id": None}, {"instance-id": ["i-1"]},
     {"instance-id": "arn:aws:ec2:::instance/i-1"}, {"instance-id": "i-" + 3000 * "1"}],
)  # fmt: skip
@pytest.mark.parametrize(
    ("handler", "name"),
    [
        ("handle_interruption", "interruption-warning"),
        ("handle_interruption", "reservation-warning"),
        ("handle_interruption", "rebalance-recommendation"),
        ("handle_instance_change", "state-change"),
    ],
)
def test_an_event_that_cannot_be_read_changes_nothing(world, invoke, handler, name, detail):
    training(world)
    ledger = world.ledger.attempts(RUN)
    assert invoke(handler, {**recorded(name), "detail": detail}) == {"status": "unreadable"}
    assert world.ledger.attempts(RUN) == ledger
    assert (world.commands.sent, len(world.fleet.machines)) == ([], 1)


@pytest.mark.parametrize("state", [None, 48, ["terminated"]])
def test_a_state_that_cannot_be_read_changes_nothing(world, invoke, state):
    event = recorded("state-change", instance_id=training(world), state=state)
    assert invoke("handle_instance_change", event) == {"status": "unreadable"}


def test_a_rebalance_recommendation_asks_for_a_checkpoint(world, invoke):
    event = recorded("rebalance-recommendation", instance_id=training(world))
    for _ in range(2):
        answer = invoke("handle_interruption", event)
        assert (answer["run_id"], answer["attempt"], answer["status"]) == (RUN, 1, "asked")
    assert len(world.fleet.machines) == 1


@pytest.mark.parametrize(
    ("handler", "event"),
    [
        ("handle_interruption", "interruption-warning"),
        ("handle_interruption", "rebalance-recommendation"),
        ("handle_interruption", "reservation-warning"),
        ("handle_instance_change", "state-change"),
        ("clean_up", "execution-aborted"),
    ],
)
def test_an_event_about_a_foreign_instance_is_answered_and_does_nothing(
    world, invoke, handler, event
):
    training(world)
    ledger = world.ledger.attempts(RUN)
    assert invoke(handler, recorded(event))["status"] == "not_ours"
    assert world.ledger.attempts(RUN) == ledger
    assert (world.commands.sent, world.fleet.terminated) == ([], [])


def test_an_event_that_no_rule_of_ours_sends_changes_nothing(world, invoke, capsys):
    instance_id = training(world)
    event = recorded("interruption-warning", instance_id=instance_id)
    event["detail-type"] = "EC2 Something Else"
    assert invoke("handle_interruption", event) == {"status": "unreadable"}
    assert (world.commands.sent, len(world.fleet.machines)) == ([], 1)
    assert '"UnreadableEvents":[1.0]' in capsys.readouterr().out


def test_an_instance_that_disappears_is_reported_once(world, invoke):
    instance_id = training(world)
    world.fleet.end(instance_id, reason="Server.SpotInstanceTermination")
    event = recorded("state-change", instance_id=instance_id)
    assert invoke("handle_instance_change", event)["status"] == "reported"
    assert invoke("handle_instance_change", event)["status"] == "already_reported"
    assert world.workflow.reports["token-1"]["outcome"]["kind"] == "interrupted"


@pytest.mark.parametrize(
    ("status", "ended"), [("ABORTED", "stopped"), ("FAILED", "failed"), ("TIMED_OUT", "failed")]
)
def test_an_execution_that_ended_is_cleaned_up_once(world, invoke, status, ended):
    instance_id = launched(world)
    event = recorded("execution-aborted", executionArn=ARN, name=RUN, status=status)
    answer = invoke("clean_up", event)
    assert (answer["run_status"], answer["terminated"]) == (ended, [instance_id])
    again = invoke("clean_up", event)
    assert (again["run_status"], again["terminated"]) == (ended, [])


def test_a_reconciliation_ends_what_an_event_that_was_lost_left(world, invoke, capsys):
    instance_id = launched(world)
    world.workflow.running.clear()
    world.workflow.ended[ARN] = "FAILED"
    done = {
        "runs": 1,
        "machines": 0,
        "cleaned": [RUN],
        "replaced": [],
        "asked_to_save": [],
        "terminated": [],
        "fleets_deleted": [],
        "failed": [],
    }
    assert invoke("reconcile", recorded("scheduled")) == done
    assert world.fleet.terminated == [instance_id]
    assert '"ReconciledRuns":[1.0]' in capsys.readouterr().out
    assert invoke("reconcile", recorded("scheduled")) == {**done, "runs": 0, "cleaned": []}


def test_environments_are_pruned_by_the_deployments_setting(world, invoke, monkeypatch, capsys):
    class Catalog:
        def __init__(self):
            self.removed = []

        def objects(self, prefix=""):
            name = "a" * 64
            keys = (f"environments/current/{name}", f"environments/uses/{name}/2030-01-01")
            age = timedelta(days=7)
            return [
                EnvironmentObject(key=key, size_bytes=1, stored_at=START - age)
                for key in keys
                if key.startswith(f"environments/{prefix}")
            ]

        def remove(self, keys):
            self.removed += keys

    world.environment_catalog = Catalog()
    monkeypatch.setenv("RUNCTL_ENVIRONMENT_DAYS", "8")
    assert invoke("prune_environments", recorded("scheduled"))["removed"] == []
    assert not world.environment_catalog.removed
    monkeypatch.setenv("RUNCTL_ENVIRONMENT_DAYS", "7")
    answer = invoke("prune_environments", recorded("scheduled"))
    assert (answer["environments"], answer["removed"]) == (1, ["a" * 64])
    assert '"PrunedEnvironments":[1.0]' in capsys.readouterr().out


def test_the_cause_of_a_stop_becomes_the_reason(world, invoke):
    event = recorded("execution-aborted", executionArn=ARN, name=RUN, cause="by ops " * 500)
    invoke("clean_up", event)
    reason = world.ledger.find_run(RUN).reason
    assert reason.startswith("by ops")
    assert len(reason) == 1000


def test_the_catch_all_sends_a_document_of_its_own(world, invoke):
    payload = {"execution_arn": ARN, "name": RUN, "status": "FAILED", "cause": "boom"}
    assert invoke("clean_up", payload)["run_status"] == "failed"


def test_a_run_goes_from_request_to_result_through_the_handlers(world, invoke):
    """Each document is what the state machine makes of the previous one."""
    world.__init__(zones=world.zones)
    execution = {"arn": ARN, "name": RUN, "start_time": "2030-01-01T12:00:00.000Z"}
    prepared = invoke("prepare_run", {"execution": execution, "input": REQUEST})
    assert prepared == {"run_id": RUN, "attempt": 1}
    launch = invoke("launch_instances", prepared)
    assert launch == {
        "run_id": RUN,
        "attempt": 1,
        "launched": True,
        "heartbeat_seconds": 300,
    }
    world.workflow.valid.add("token")
    invoke("train", {**prepared, "token": "token", "execution_arn": ARN})
    assert world.ledger.find_token(RUN, 1) == "token"
    taken = {**prepared, "outcome": {"kind": "interrupted", "reason": "notice"}}
    confirmed = invoke("confirm_checkpoint", taken)
    decided = invoke("decide_next", {key: confirmed[key] for key in taken})
    assert (decided["decision"], decided["attempt"]) == ("relaunch", 2)
    second = {"run_id": RUN, "attempt": decided["attempt"]}
    assert invoke("launch_instances", second)["launched"]
    invoke("train", {**second, "token": "token-2", "execution_arn": ARN})
    done = {**second, "outcome": {"kind": "completed", "reason": "", "exit_code": 0}}
    confirmed = invoke("confirm_checkpoint", done)
    decided = invoke("decide_next", {key: confirmed[key] for key in done})
    assert decided["decision"] == "finish"
    result = invoke("finish_run", {key: decided[key] for key in ("run_id", "status", "reason")})
    assert (result["status"], result["attempts"]) == ("completed", 2)


def test_a_bad_request_is_raised_by_the_name_that_the_state_machine_catches(world, invoke):
    execution = {"arn": "arn:x", "name": "x", "start_time": "2030-01-01T12:00:00Z"}
    with pytest.raises(InvalidRequestError, match="script: missing"):
        invoke("prepare_run", {"execution": execution, "input": {}})


def test_no_capacity_is_an_outcome_not_an_error(world, invoke):
    world.fleet.call_error = "MaxSpotInstanceCountExceeded"
    launch = invoke("launch_instances", {"run_id": RUN, "attempt": 1})
    assert launch["outcome"]["kind"] == "no_capacity"


def test_decisions_are_counted_in_the_embedded_metric_format(world, invoke, capsys):
    invoke("launch_instances", {"run_id": RUN, "attempt": 1})
    output = capsys.readouterr().out
    assert '"Namespace":"runctl"' in output
    assert '"Launches":[1.0]' in output


@pytest.mark.parametrize("name", HANDLERS)
def test_importing_a_handler_touches_neither_aws_nor_the_environment(name):
    watch = (
        "import os, sys, socket\n"
        "def refuse(*_): raise SystemExit('touched the network')\n"
        "socket.socket.connect = refuse\n"
        "import boto3\n"
        "boto3.Session.client = refuse\n"
        f"import lambdas.{name}\n"
        f"assert lambdas.{name}.handler\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch],
        check=False,
        env={"PATH": "/nowhere", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def services_of(monkeypatch, **variables):
    from lambdas.services import services

    for name in os.environ:
        if name.startswith("RUNCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    services.cache_clear()
    try:
        return services()
    finally:
        services.cache_clear()


def test_services_are_created_from_the_variables_of_the_contract(monkeypatch):
    services = services_of(
        monkeypatch,
        RUNCTL_DEPLOYMENT="runctl",
        RUNCTL_TABLE="t",
        RUNCTL_BUCKET="b",
        RUNCTL_COMMAND_DOCUMENT="d",
        RUNCTL_TOPIC_ARN="arn:aws:sns:us-east-1:123456789012:t",
        RUNCTL_SUBNETS='{"us-east-1b": "subnet-b", "us-east-1a": "subnet-a"}',
        RUNCTL_LAUNCH_TEMPLATES='{"x86_cpu": {"id": "lt-1", "version": "2"}}',
        RUNCTL_OWN_IMAGES='["x86_gpu"]',
        RUNCTL_ROOT_VOLUMES='{"x86_cpu": {"device": "/dev/sda1", "gib": 50, "throughput": 125, '
        '"iops": 3000, "key": "alias/aws/ebs"}, "x86_gpu": {"of": "a newer version"}}',
    )
    assert services.ledger is services.ledger
    assert services.fleet.zones() == ("us-east-1a", "us-east-1b")
    assert services.fleet.own_images == {MachineKind.X86_GPU}
    volume = RootVolume(device="/dev/sda1", gib=50, key="alias/aws/ebs")
    assert services.fleet.root_volumes() == {MachineKind.X86_CPU: volume}
    request = services.fleet.build_request(
        run_id="r", attempt=1, launch_try=1, pools=[Pool("m5.large", "us-east-1a", "spot")]
    )
    (config,) = json.loads(request)["LaunchTemplateConfigs"]
    assert config["LaunchTemplateSpecification"] == {"LaunchTemplateId": "lt-1", "Version": "2"}
    assert services.objects.uri("k") == "s3://b/k"
    assert services.commands
    assert services.workflow
    assert services.notices
    assert services.clock.now().tzinfo is not None


@pytest.mark.parametrize(
    ("service", "missing"),
    [
        ("ledger", "table"),
        ("fleet", "name"),
        ("objects", "bucket"),
        ("notices", "topic_arn"),
        ("logs", "log_group"),
    ],
)
def test_a_missing_variable_of_a_function_matters_only_when_it_is_used(
    service, missing, monkeypatch
):
    services = services_of(monkeypatch)
    with pytest.raises(LookupError, match=missing):
        getattr(services, service)
