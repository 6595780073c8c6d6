"""A run may start on a machine that existed before it, which does not end with the run."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.control.use_existing_instance import TAGGED_WITHIN
from runctl.model.errors import InvalidRequestError, TransientError
from runctl.model.identity import EXISTING_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.lending import Lending
from runctl.model.machine import Machine
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from tests.attempts import report
from tests.control.fakes import START, World
from tests.control.scenes import ARN, RUN, prepared
from tests.control.steps import (
    clean_up,
    finish_run,
    handle_interruption,
    launch_instances,
    reconcile,
)

MACHINE = "i-0123456789abcdef0"


def lent(*, until=START + timedelta(hours=1), deployment="runctl") -> dict[str, str]:
    owner = "arn:aws:iam::000000000000:user/ada"
    return {EXISTING_TAG: Lending(deployment=deployment, until=until, owner=owner).value}


def world_with_a_machine(state="running", **tags) -> World:
    """A world with a machine that is lent for an hour, unless `tags` say something else."""
    tags = {**lent(), **tags}
    world = World(zones=("us-east-1a", "us-east-1b"))
    world.fleet.machines[MACHINE] = Machine(
        instance_id=MACHINE,
        state=state,
        pool=Pool("m5.large", "us-east-1a", "spot"),
        launched_at=world.clock.now(),
        tags={key: value for key, value in tags.items() if value},
    )
    return world


def existing(**tags) -> World:
    world = prepared(world_with_a_machine(**tags), instance_id=MACHINE)
    assert launch_instances(world, RUN, 1)["launched"]
    return world


def test_the_first_attempt_starts_on_the_machine_and_nothing_is_launched():
    world = existing()
    attempt = world.ledger.find_attempt(RUN, 1)
    assert attempt.instance_ids == (MACHINE,)
    assert attempt.is_on_existing_instance
    assert world.commands.started == [(MACHINE, RUN, 1)]
    assert list(world.fleet.machines) == [MACHINE]
    assert world.ledger.find_instance(MACHINE) == (RUN, 1, 0)


NOT_USABLE = [
    ({EXISTING_TAG: ""}, "is not lent to the deployment runctl"),
    ({EXISTING_TAG: "yes"}, "was lent without an end, by an earlier version"),
    ({EXISTING_TAG: "deployment=runctl until=soon owner=x"}, "was lent without an end"),
    (
        {EXISTING_TAG: "deployment=runctl until=2031-01-01T00:00:00 owner=x"},
        "was lent without an end",
    ),
    (lent(until=START), "was lent until 2030-01-01 12:00 UTC (by arn:aws:iam::000000000000:user/"),
    (lent(deployment="second"), "is lent to the deployment second, not to runctl"),
    (lent(deployment="runctl2"), "is lent to the deployment runctl2, not to runctl"),
]


@pytest.mark.parametrize(("tags", "message"), NOT_USABLE)
def test_nothing_starts_on_a_machine_that_is_not_lent_now(tags, message):
    world = prepared(world_with_a_machine(**tags), instance_id=MACHINE)
    with pytest.raises(TransientError, match=re.escape(message)):
        launch_instances(world, RUN, 1)  # the tag may be newer than what EC2 shows
    world.clock.advance(TAGGED_WITHIN)
    answer = launch_instances(world, RUN, 1)
    assert answer["outcome"]["kind"] == "failed"
    assert f"{MACHINE} {message}" in answer["outcome"]["reason"]
    assert f"runctl aws lend {MACHINE} " in answer["outcome"]["reason"]
    assert world.commands.started == []
    assert world.ledger.find_instance(MACHINE) is None


def test_a_tag_that_becomes_visible_late_is_waited_for():
    world = prepared(world_with_a_machine(**{EXISTING_TAG: ""}), instance_id=MACHINE)
    with pytest.raises(TransientError):
        launch_instances(world, RUN, 1)
    machine = world.fleet.machines[MACHINE]
    world.fleet.machines[MACHINE] = replace(machine, tags=lent())
    assert launch_instances(world, RUN, 1)["launched"]


def test_a_run_that_waited_until_the_machine_was_no_longer_lent_does_not_start_there():
    world = prepared(world_with_a_machine(), instance_id=MACHINE)
    world.commands.unreachable.add(MACHINE)
    with pytest.raises(TransientError):
        launch_instances(world, RUN, 1)
    world.commands.unreachable.clear()
    world.clock.advance(timedelta(hours=1))
    assert launch_instances(world, RUN, 1)["outcome"]["kind"] == "failed"
    assert world.commands.started == []


def test_an_attempt_that_has_begun_outlasts_the_lending_and_the_tag_stays_until_it_ends():
    world = existing()
    report(world.ledger, RUN, 1, phase="boot", now=world.clock.now())
    world.clock.advance(timedelta(hours=2))
    assert launch_instances(world, RUN, 1)["launched"]
    assert "no_longer_lent" not in reconcile(world)
    assert EXISTING_TAG in world.fleet.machines[MACHINE].tags
    world.ledger.end_attempt(
        RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=world.clock.now()
    )
    assert reconcile(world)["no_longer_lent"] == [MACHINE]
    assert EXISTING_TAG not in world.fleet.machines[MACHINE].tags


@pytest.mark.parametrize(
    "tags", [lent(), {EXISTING_TAG: "yes"}, lent(until=START, deployment="second")]
)
def test_only_expired_tags_of_this_deployment_are_removed(tags):
    world = world_with_a_machine(**tags)
    assert "no_longer_lent" not in reconcile(world)
    assert world.fleet.machines[MACHINE].tags == tags


def test_a_tag_that_cannot_be_removed_keeps_no_other():
    world = world_with_a_machine(**lent(until=START))
    other = replace(world.fleet.machines[MACHINE], instance_id="i-0fedcba9876543210")
    world.fleet.machines[other.instance_id] = other
    world.fleet.stuck.add(MACHINE)
    done = reconcile(world)
    assert (done["no_longer_lent"], done["failed"]) == ([other.instance_id], [MACHINE])


def test_the_machine_of_another_deployment_is_refused():
    world = world_with_a_machine(**{RUN_TAG: RUN})
    foreign = replace(world.fleet.machines[MACHINE], is_foreign=True)
    world.fleet.machines[MACHINE] = foreign
    with pytest.raises(InvalidRequestError, match="launched by another deployment"):
        prepared(world, instance_id=MACHINE)


def test_a_repeated_call_starts_the_agent_again_only_until_it_was_heard_of():
    world = existing()
    launch_instances(world, RUN, 1)
    assert world.commands.started == 2 * [(MACHINE, RUN, 1)]
    report(world.ledger, RUN, 1, phase="boot", now=world.clock.now())
    launch_instances(world, RUN, 1)
    assert len(world.commands.started) == 2


def test_a_reclaim_moves_the_run_to_a_machine_of_its_own():
    world = existing()
    assert handle_interruption(world, MACHINE)["status"] == "relaunched"
    second = world.ledger.find_attempt(RUN, 2)
    assert second.instance_ids != (MACHINE,)
    assert not second.is_on_existing_instance


@pytest.mark.parametrize("how", ["finished", "cleaned up", "reconciled"])
def test_the_machine_outlives_the_run(how):
    world = existing(**{KEEP_ALIVE_TAG: "2999-01-01T00:00:00Z"})
    if how == "finished":
        finish_run(world, RUN, status="completed", reason="")
    else:
        clean_up(world, execution_arn=ARN, name=RUN, status="ABORTED")
        assert (MACHINE, "stop") in world.commands.sent
    if how == "reconciled":
        reconcile(world)
    assert world.fleet.machines[MACHINE].state == "running"


def test_a_second_run_is_refused_while_the_first_works_on_the_machine():
    world = existing()
    other = prepared_second(world)
    answer = launch_instances(world, other, 1)
    assert not answer["launched"]
    assert answer["outcome"]["kind"] == "failed"
    assert f"attempt 1 of {RUN}" in answer["outcome"]["reason"]
    assert world.ledger.find_instance(MACHINE) == (RUN, 1, 0)


def test_the_next_run_may_have_the_machine_once_the_first_attempt_has_ended():
    world = existing()
    world.ledger.end_attempt(
        RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=world.clock.now()
    )
    other = prepared_second(world)
    assert launch_instances(world, other, 1)["launched"]
    assert world.ledger.find_instance(MACHINE) == (other, 1, 0)


def prepared_second(world: World) -> str:
    from tests.control.scenes import REQUEST, execution
    from tests.control.steps import prepare_run

    prepare_run(world, execution("run-2"), {**REQUEST, "instance_id": MACHINE})
    return "run-2"


def test_a_machine_that_ssm_does_not_reach_is_waited_for_and_then_explained():
    world = prepared(world_with_a_machine(), instance_id=MACHINE)
    world.commands.unreachable.add(MACHINE)
    with pytest.raises(TransientError, match="SSM agent is not registered"):
        launch_instances(world, RUN, 1)
    world.commands.unreachable.clear()
    assert launch_instances(world, RUN, 1)["launched"]


def test_a_machine_that_ec2_does_not_know_yet_is_waited_for():
    world = prepared(world_with_a_machine(), instance_id=MACHINE)
    machine = world.fleet.machines.pop(MACHINE)
    with pytest.raises(TransientError, match="does not know i-0123456789abcdef0"):
        launch_instances(world, RUN, 1)
    world.fleet.machines[MACHINE] = machine
    assert launch_instances(world, RUN, 1)["launched"]


def test_a_refused_command_ends_the_run_with_the_remedy():
    world = prepared(world_with_a_machine(), instance_id=MACHINE)
    world.commands.refusal = "not authorized; tag it"
    answer = launch_instances(world, RUN, 1)
    assert answer["outcome"]["kind"] == "failed"
    assert "tag it" in answer["outcome"]["reason"]


@pytest.mark.parametrize(
    ("state", "tags", "message"),
    [
        ("stopped", {}, "start it"),
        ("terminated", {}, "name one that runs"),
        ("running", {RUN_TAG: "run-9"}, "was launched for the run run-9"),
    ],
)
def test_a_machine_on_which_nothing_can_start_is_refused_at_once(state, tags, message):
    world = world_with_a_machine(state, **tags)
    with pytest.raises(InvalidRequestError, match=message):
        prepared(world, instance_id=MACHINE)
