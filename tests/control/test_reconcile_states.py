"""Every state that a reconciliation can find, and exactly what it may do then.

Run live or ended × attempt open, ended, superseded, unknown × machine live, noticed, gone ×
execution running, ended, unknown × ages: each combination is given to reconciliation, and its
actions are compared with the rules below, which are derived from the guarantees, not from the code.
"""

import itertools
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from runctl.model.identity import ATTEMPT_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.pool import Pool
from tests.control.scenes import ARN, RUN, launched, prepared, stray, training
from tests.control.steps import launch_instances, reconcile

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)

RUNS = ("live", "ended")
ATTEMPTS = ("open", "ended", "superseded", "unknown")
MACHINES = ("live", "noticed", "gone")
EXECUTIONS = ("running", "ended", "unknown")
# How long ago the machine was launched, and how long ago the end or the new fence came.
AGES = ((2 * MINUTE, MINUTE), (12 * MINUTE, 10 * MINUTE), (3 * HOUR, MINUTE), (3 * HOUR, HOUR))


@dataclass(frozen=True)
class Case:
    run: str
    attempt: str
    machine: str
    execution: str
    launched: timedelta
    changed: timedelta

    def __str__(self) -> str:
        ages = f"{self.launched // MINUTE}m-{self.changed // MINUTE}m"
        return f"{self.run}-{self.attempt}-{self.machine}-{self.execution}-{ages}"


CASES = [
    Case(run, attempt, machine, execution, *ages)
    for run, attempt, machine, execution, ages in itertools.product(
        RUNS, ATTEMPTS, MACHINES, EXECUTIONS, AGES
    )
]


def play(case: Case):
    """Build the state, and return the world and the machine in question."""
    world = prepared()
    instance_id = training(world)
    world.clock.advance(case.launched - case.changed)
    if case.machine == "noticed":
        world.ledger.record_notice(NodeId(RUN, 1, 0), now=world.clock.now())
    if case.attempt == "ended":
        lost = Outcome(kind=OutcomeKind.LOST)
        world.ledger.end_attempt(RUN, 1, outcome=lost, now=world.clock.now())
    elif case.attempt == "superseded":
        training(world, 2)
    elif case.attempt == "unknown":
        machine = world.fleet.machines[instance_id]
        tags = {RUN_TAG: RUN, ATTEMPT_TAG: "7"}
        world.fleet.machines[instance_id] = replace(machine, tags=tags)
        del world.ledger.attempt_items[RUN, 1]
    if case.run == "ended":
        world.ledger.end_run(RUN, status=RunStatus.COMPLETED, reason="", now=world.clock.now())
        world.ledger.record_notified(RUN, end=world.clock.now())
    if case.machine == "gone":
        world.fleet.end(instance_id, reason="Server.SpotInstanceTermination")
    if case.execution != "running":
        world.workflow.running.discard(ARN)
    if case.execution == "ended":
        world.workflow.ended[ARN] = "FAILED"
    world.clock.advance(case.changed)
    return world, instance_id


def is_cleaned(case: Case) -> bool:
    """Return whether to end a live run: its execution is over, or unknown and not new."""
    if case.run == "ended" or case.execution == "running":
        return False
    return case.execution == "ended" or case.launched >= 15 * MINUTE


def may_end(case: Case) -> bool:
    """Return whether EC2 takes a young machine for free: the ledger has its notice."""
    if case.machine == "noticed" and case.attempt == "unknown":
        return True
    return case.machine == "live" or (case.machine == "noticed" and case.launched >= HOUR)


def is_terminated(case: Case) -> bool:
    """Return whether to end a machine: not needed for five minutes, and not left to EC2."""
    wanted_until_now = case.run == "live" and case.attempt in {"open", "unknown"}
    if not may_end(case) or wanted_until_now:
        return False
    return case.changed >= 5 * MINUTE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_reconciliation_does_what_the_rules_say_in_every_state(case):
    world, instance_id = play(case)
    done = reconcile(world)
    assert done["failed"] == []
    assert done["cleaned"] == ([RUN] if is_cleaned(case) else [])
    if is_cleaned(case):
        # CleanUp itself asks the agent to drain, or ends a machine without a reachable agent.
        assert world.ledger.find_run(RUN).ended is not None
        assert all(attempt.ended for attempt in world.ledger.attempts(RUN))
    else:
        gone = {instance_id} if is_terminated(case) else set()
        if case.attempt == "superseded" and case.run == "ended" and case.changed >= 5 * MINUTE:
            gone |= set(world.ledger.find_attempt(RUN, 2).instance_ids)
        assert set(done["terminated"]) == gone
    if not may_end(case):
        assert instance_id not in world.fleet.terminated
    second = world.ledger.find_attempt(RUN, 2)
    if second is not None and case.run == "live" and not is_cleaned(case):
        assert world.fleet.machines[second.instance_ids[0]].is_live, "the one that trains"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whatever_the_state_reconciliations_leave_no_unneeded_machine(case):
    """Let hours pass with reconciliations only; EC2 takes the machines with a notice."""
    world, _ = play(case)
    for _ in range(4 * 4):
        reconcile(world)
        world.clock.advance(15 * MINUTE)
    run = world.ledger.find_run(RUN)
    wanted = set() if run.ended else {machine.instance_id for machine in world.fleet.running()}
    assert {machine.instance_id for machine in world.fleet.running()} == wanted
    if case.execution == "running" and case.run == "live":
        assert run.ended is None
    else:
        assert run.ended is not None
        # Their fleets too, once they are empty: none is left.
        reconcile(world)
        assert all(fleet.is_deleted for fleet in world.fleet.fleets.values())


def keep(world, instance_id, until):
    machine = world.fleet.machines[instance_id]
    tags = {KEEP_ALIVE_TAG: until.isoformat().replace("+00:00", "Z")}
    world.fleet.machines[instance_id] = replace(machine, tags=tags)


def test_a_machine_that_somebody_keeps_lives_until_then_and_not_longer():
    world = prepared()
    instance_id = stray(world)
    keep(world, instance_id, world.clock.now() + 4 * HOUR)
    world.clock.advance(3 * HOUR)
    assert reconcile(world)["terminated"] == []
    world.clock.advance(HOUR)
    assert reconcile(world)["terminated"] == [instance_id]


def test_a_kept_machine_that_a_run_trains_on_outlives_its_time_with_the_run():
    world = prepared()
    instance_id = training(world)
    keep(world, instance_id, world.clock.now() + HOUR)
    world.clock.advance(5 * HOUR)
    assert reconcile(world)["terminated"] == []
    now = world.clock.now()
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=now)
    world.clock.advance(5 * MINUTE)
    assert reconcile(world)["terminated"] == [instance_id]


@pytest.mark.parametrize("text", ["tomorrow", "2030-01-01", "2030-01-01T12:00:00", ""])
def test_a_machine_whose_time_cannot_be_read_is_left_to_its_owner(text):
    world = prepared()
    instance_id = stray(world)
    machine = world.fleet.machines[instance_id]
    world.fleet.machines[instance_id] = replace(machine, tags={KEEP_ALIVE_TAG: text})
    world.clock.advance(timedelta(days=30))
    assert reconcile(world)["terminated"] == []


def test_a_second_machine_of_a_live_attempt_is_ended_and_the_first_is_not():
    """EC2 has forgotten the token of a replayed launch, and launched again."""
    world = prepared()
    first = training(world)
    second = stray(world)
    world.clock.advance(4 * MINUTE)
    assert reconcile(world)["terminated"] == []
    world.clock.advance(MINUTE)
    assert reconcile(world)["terminated"] == [second]
    assert world.fleet.machines[first].is_live


# Fleets.


def spend(world, instance_id):
    world.fleet.end(instance_id, reason="Client.UserInitiatedShutdown")


def test_a_fleet_whose_machine_is_gone_is_deleted_when_an_hour_old():
    world = prepared()
    training(world)
    (fleet_id,) = world.fleet.fleets
    now = world.clock.now()
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=now)
    spend(world, "i-0001")
    world.clock.advance(59 * MINUTE)
    assert reconcile(world)["fleets_deleted"] == []
    world.clock.advance(MINUTE)
    assert reconcile(world)["fleets_deleted"] == [fleet_id]
    assert reconcile(world)["fleets_deleted"] == []


def test_a_fleet_that_got_no_machine_is_deleted_too():
    world = prepared()
    world.fleet.refusals = dict.fromkeys(
        _pools(world, "m5.large", "c5.large"), "InsufficientInstanceCapacity"
    )
    assert launch_instances(world, RUN, 1)["launched"] is False
    fleets = list(world.fleet.fleets)
    assert fleets
    world.clock.advance(HOUR)
    assert reconcile(world)["fleets_deleted"] == fleets


def _pools(world, *kinds):
    return [
        Pool(kind, zone, market)
        for kind in kinds
        for zone in world.fleet.zones()
        for market in ("spot", "on-demand")
    ]


@pytest.mark.parametrize(
    "state", ["pending", "running", "shutting-down", "stopping", "stopped", "no such state"]
)
def test_a_fleet_that_is_not_empty_is_never_deleted(state):
    world = prepared()
    instance_id = launched(world)
    world.fleet.machines[instance_id] = replace(world.fleet.machines[instance_id], state=state)
    world.clock.advance(timedelta(days=2))
    assert reconcile(world)["fleets_deleted"] == []
    assert world.fleet.terminated == []


def test_a_fleet_whose_machine_ec2_does_not_show_is_kept_while_the_ledger_has_it_at_work():
    world = prepared()
    instance_id = training(world)
    world.fleet.hidden.add(instance_id)
    world.clock.advance(timedelta(days=2))
    assert reconcile(world)["fleets_deleted"] == []
    now = world.clock.now()
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=now)
    assert reconcile(world)["fleets_deleted"] == list(world.fleet.fleets)


def test_a_fleet_that_cannot_be_deleted_is_reported_and_does_not_stop_the_others(caplog):
    world = prepared()
    training(world)
    spend(world, "i-0001")
    now = world.clock.now()
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=now)
    stray(world)
    spend(world, "i-0002")
    first, second = world.fleet.fleets
    delete = world.fleet.delete_fleets
    world.fleet.delete_fleets = lambda ids: (
        delete([instance_id for instance_id in ids if instance_id != first])
        | {first: "hm (unexpectedError)"}
    )
    world.clock.advance(HOUR)
    done = reconcile(world)
    assert (done["fleets_deleted"], done["failed"]) == ([second], ["fleets"])
    assert f"{first} could not be deleted: hm (unexpectedError)" in caplog.text


def test_machines_are_ended_even_if_fleets_cannot_be_listed():
    world = prepared()
    instance_id = training(world)
    now = world.clock.now()
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=now)
    world.clock.advance(5 * MINUTE)

    def find_fleets():
        raise RuntimeError("no permission")

    world.fleet.find_fleets = find_fleets
    done = reconcile(world)
    assert (done["terminated"], done["failed"]) == ([instance_id], ["fleets"])
