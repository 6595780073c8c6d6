"""Train, ConfirmCheckpoint, DecideNext and the end of the instance: each attempt ends once."""

from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.model.errors import FencedError, NotFoundError, RequestError
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.pool import Pool
from runctl.model.run import Launched
from tests.attempts import report
from tests.control.fakes import START, World
from tests.control.scenes import ARN, RUN, launched, prepared, stray, training
from tests.control.steps import confirm_checkpoint, decide_next, handle_instance_change, train

LOST = {"kind": "lost", "reason": "no heartbeat"}
COMPLETED = {"kind": "completed", "reason": "", "exit_code": 0}
RECLAIMED = "Server.SpotInstanceTermination"


def test_the_token_reaches_the_attempt_and_its_task_continues():
    world = prepared()
    launched(world)
    world.workflow.valid.add("token")
    started = train(world, RUN, 1, token="token", execution_arn=ARN)
    assert started["status"] == "started"
    assert world.ledger.find_token(RUN, 1) == "token"
    assert world.workflow.reports == {}


def test_an_attempt_whose_machine_is_gone_before_its_token_arrives_is_reported_at_once():
    world = prepared()
    instance_id = launched(world)
    world.fleet.end(instance_id, reason=RECLAIMED)
    assert handle_instance_change(world, instance_id, "terminated")["status"] == "ended"
    world.workflow.valid.add("token")
    for _ in range(2):
        started = train(world, RUN, 1, token="token", execution_arn=ARN)
        assert started["status"] == "already_ended"
    assert world.workflow.reports["token"]["outcome"]["kind"] == "interrupted"


def test_a_superseded_attempt_gets_no_token():
    world = prepared()
    training(world, 1)
    training(world, 2)
    with pytest.raises(FencedError):
        train(world, RUN, 1, token="late", execution_arn=ARN)


def test_the_confirmed_outcome_comes_with_the_newest_checkpoint():
    world = prepared()
    training(world)
    world.ledger.commit_checkpoint(
        RUN, 1, step=40, save=40, manifest="runs/run-1/40", progressed=True, now=START
    )
    confirmed = confirm_checkpoint(world, RUN, 1, COMPLETED)
    assert confirmed == {
        "run_id": RUN,
        "attempt": 1,
        "outcome": {**COMPLETED, "step": 40, "save": 40},
        "step": 40,
        "save": 40,
        "checkpoint": "runs/run-1/40",
    }
    assert world.ledger.find_attempt(RUN, 1).ended.kind is OutcomeKind.COMPLETED


def test_the_outcome_that_was_recorded_first_is_confirmed():
    world = prepared()
    training(world)
    confirm_checkpoint(world, RUN, 1, COMPLETED)
    assert confirm_checkpoint(world, RUN, 1, LOST)["outcome"]["kind"] == "completed"


@pytest.mark.parametrize("reason", [RECLAIMED, "Server.SpotInstanceShutdown"])
def test_silence_of_a_machine_that_ec2_took_is_an_interruption(reason):
    world = prepared()
    world.fleet.end(training(world), reason=reason)
    outcome = confirm_checkpoint(world, RUN, 1, LOST)["outcome"]
    assert outcome["kind"] == "interrupted"
    assert reason in outcome["reason"]


def test_silence_after_a_notice_is_an_interruption_and_ec2_ends_the_machine():
    world = prepared()
    training(world)
    world.ledger.record_notice(NodeId(RUN, 1, 0), now=START)
    assert confirm_checkpoint(world, RUN, 1, LOST)["outcome"]["kind"] == "interrupted"
    assert world.fleet.terminated == []


def test_a_silent_machine_that_still_runs_is_ended():
    world = prepared()
    instance_id = training(world)
    assert confirm_checkpoint(world, RUN, 1, LOST)["outcome"]["kind"] == "lost"
    assert world.fleet.terminated == [instance_id]


def test_a_silent_machine_that_ec2_does_not_show_yet_is_ended_too():
    world = prepared()
    instance_id = training(world)
    world.fleet.hidden.add(instance_id)
    confirm_checkpoint(world, RUN, 1, LOST)
    assert world.fleet.terminated == [instance_id]


def test_an_agent_that_reported_shuts_down_by_itself():
    world = prepared()
    training(world)
    confirm_checkpoint(world, RUN, 1, COMPLETED)
    assert world.fleet.terminated == []


def test_a_second_machine_of_the_attempt_that_nobody_recorded_is_ended():
    world = prepared()
    training(world)
    second = stray(world)
    confirm_checkpoint(world, RUN, 1, COMPLETED)
    assert world.fleet.terminated == [second]


@pytest.mark.parametrize("kind", ["interrupted", "lost"])
def test_a_pool_that_took_the_machine_cools(kind):
    world = prepared()
    training(world)
    pool = Pool.parse(world.ledger.find_attempt(RUN, 1).pool)
    confirm_checkpoint(world, RUN, 1, {"kind": kind, "reason": ""})
    assert pool in world.ledger.cooling_pools([pool], now=START)


def test_a_pool_that_served_to_the_end_does_not_cool():
    world = prepared()
    training(world)
    confirm_checkpoint(world, RUN, 1, COMPLETED)
    assert world.ledger.pools == {}


def test_an_attempt_that_was_never_opened_cannot_be_confirmed():
    with pytest.raises(NotFoundError):
        confirm_checkpoint(prepared(), RUN, 1, LOST)


def test_an_invalid_outcome_is_refused():
    world = prepared()
    training(world)
    with pytest.raises(RequestError, match="'exploded' is not a valid outcome"):
        confirm_checkpoint(world, RUN, 1, {"kind": "exploded"})


def test_an_interrupted_run_continues_with_the_next_attempt():
    world = prepared()
    training(world)
    decided = decide_next(world, RUN, 1, {"kind": "interrupted", "reason": ""})
    assert (decided["decision"], decided["attempt"], decided["wait_seconds"]) == ("relaunch", 2, 0)
    assert "status" not in decided


def test_refusals_in_a_row_wait_longer_and_longer():
    world = prepared()
    waits = []
    for number in (1, 2, 3):
        world.ledger.open_attempt(RUN, number, launch_try=1, source=Launched("{}"), now=START)
        refused = {"kind": "no_capacity", "reason": ""}
        waits.append(decide_next(world, RUN, number, refused)["wait_seconds"])
    assert waits == [30, 60, 120]


def test_a_replacement_launched_inside_the_notice_is_not_counted_as_spent():
    world = prepared(max_attempts=2)
    training(world, 1)
    launched(world, 2)
    decided = decide_next(world, RUN, 1, {"kind": "interrupted", "reason": ""})
    assert decided["decision"] == "relaunch"


def test_a_completed_run_finishes():
    world = prepared()
    training(world)
    decided = decide_next(world, RUN, 1, COMPLETED)
    assert (decided["decision"], decided["status"]) == ("finish", "completed")


def test_a_run_that_was_ended_meanwhile_is_not_relaunched():
    world = prepared()
    training(world)
    world.ledger.end_run(RUN, status=RunStatus.STOPPED, reason="by hand", now=START)
    decided = decide_next(world, RUN, 1, {"kind": "interrupted", "reason": ""})
    assert (decided["decision"], decided["status"]) == ("finish", "stopped")


def test_a_machine_that_disappears_without_a_report_is_reported_at_once():
    world = prepared()
    instance_id = training(world)
    world.fleet.end(instance_id, reason="Server.InternalError")
    handled = handle_instance_change(world, instance_id, "terminated")
    assert handled["status"] == "reported"
    outcome = world.workflow.reports["token-1"]["outcome"]
    assert outcome["kind"] == "lost"
    assert "Server.InternalError" in outcome["reason"]
    # ConfirmCheckpoint records it, so that there is one writer.
    assert world.ledger.find_attempt(RUN, 1).ended is None


@pytest.mark.parametrize("state", ["shutting-down", "stopping"])
def test_a_machine_that_shuts_down_in_order_gets_time_to_save(state):
    world = prepared()
    instance_id = training(world)
    assert handle_instance_change(world, instance_id, state)["status"] == "still_running"
    assert world.workflow.reports == {}


def test_an_agent_that_reported_and_shut_down_is_not_misjudged():
    world = prepared()
    instance_id = training(world)
    world.workflow.report("token-1", {"outcome": COMPLETED})
    world.fleet.end(instance_id, reason="Client.InstanceInitiatedShutdown")
    assert handle_instance_change(world, instance_id, "terminated")["status"] == "already_reported"
    assert confirm_checkpoint(world, RUN, 1, COMPLETED)["outcome"]["kind"] == "completed"


def test_a_token_that_arrives_while_the_end_is_written_is_reported(monkeypatch):
    world = prepared()
    instance_id = launched(world)
    world.fleet.end(instance_id, reason=RECLAIMED)
    end_attempt = world.ledger.end_attempt

    def after_the_token(*args, **kwargs):
        world.workflow.valid.add("token")
        train(world, RUN, 1, token="token", execution_arn=ARN)
        return end_attempt(*args, **kwargs)

    monkeypatch.setattr(world.ledger, "end_attempt", after_the_token)
    assert handle_instance_change(world, instance_id, "terminated")["status"] == "reported"
    assert world.workflow.reports["token"]["outcome"]["kind"] == "interrupted"


def test_a_change_of_an_ended_attempt_or_to_running_changes_nothing():
    world = prepared()
    instance_id = training(world)
    assert handle_instance_change(world, instance_id, "running")["status"] == "still_running"
    lost = Outcome(kind=OutcomeKind.LOST)
    world.ledger.end_attempt(RUN, 1, outcome=lost, now=START + timedelta(minutes=1))
    assert handle_instance_change(world, instance_id, "terminated")["status"] == "already_ended"
    assert world.workflow.reports == {}


def test_a_foreign_machine_is_left_alone():
    assert handle_instance_change(World(), "i-other", "terminated") == {"status": "not_ours"}


@pytest.mark.parametrize(("is_foreign", "status"), [(False, "ended"), (True, "not_ours")])
def test_an_instance_of_a_run_of_the_same_name_in_another_deployment_is_not_ours(
    is_foreign, status
):
    world = prepared()
    pools = [Pool("m5.large", "us-east-1a", "spot")]
    request = world.fleet.build_request(run_id=RUN, attempt=1, launch_try=1, pools=pools)
    # Launched but not recorded: only its tags identify its run.
    world.ledger.open_attempt(RUN, 1, launch_try=1, source=Launched(request), now=START)
    (instance_id,) = world.fleet.launch(request).instance_ids
    machine = world.fleet.machines[instance_id]
    world.fleet.machines[instance_id] = replace(machine, state="terminated", is_foreign=is_foreign)
    assert handle_instance_change(world, instance_id, "terminated")["status"] == status
    assert (world.ledger.find_attempt(RUN, 1).ended is None) == is_foreign


UNUSABLE_KEY = "Client.InvalidKMSKey.InvalidState"


@pytest.mark.parametrize("reason", [UNUSABLE_KEY, "Client.InternalError"])
def test_a_first_instance_that_cannot_start_ends_the_run_with_the_state_reason_and_the_remedy(
    reason,
):
    world = prepared()
    world.fleet.end(training(world), reason=reason)
    handle_instance_change(world, world.ledger.find_attempt(RUN, 1).instance_ids[0], "terminated")
    (report,) = world.workflow.reports.values()
    outcome = confirm_checkpoint(world, RUN, 1, report["outcome"])["outcome"]
    assert outcome["kind"] == "failed"
    assert reason in outcome["reason"]
    assert "ebs_kms_key" in outcome["reason"]
    decision = decide_next(world, RUN, 1, outcome)
    assert (decision["decision"], decision["status"]) == ("give_up", "failed")
    assert reason in decision["reason"]


def test_silence_of_an_instance_that_never_started_is_explained_the_same_way():
    world = prepared()
    world.fleet.end(training(world), reason=UNUSABLE_KEY)
    outcome = confirm_checkpoint(world, RUN, 1, LOST)["outcome"]
    assert outcome["kind"] == "failed"
    assert "enable it" in outcome["reason"]


def test_an_instance_that_has_run_did_not_fail_to_start():
    world = prepared()
    instance_id = training(world)
    report(world.ledger, RUN, 1, phase="boot", now=START)
    world.fleet.end(instance_id, reason="Client.InternalError")
    assert confirm_checkpoint(world, RUN, 1, LOST)["outcome"]["kind"] == "lost"
