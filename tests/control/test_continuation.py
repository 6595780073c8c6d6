"""A run that outlives its execution's history continues in the next execution."""

import pytest

from runctl.control.decide_next import EVENTS_A_TURN, MAX_EVENTS, MAX_TURNS
from runctl.control.execution_start import STARTED_BY
from runctl.model.errors import InvalidRequestError, RequestError, RunEndedError
from runctl.model.outcome import RunStatus
from runctl.model.run import Launched
from tests.control.fakes import START, World
from tests.control.scenes import ARN, RUN, execution, launched, prepared
from tests.control.steps import clean_up, confirm_checkpoint, decide_next, prepare_run

NO_CAPACITY = {"kind": "no_capacity", "reason": "none"}
CHILD = {"run_id": RUN, STARTED_BY: ARN}


def refused(world: World, number: int) -> dict:
    """One turn of the loop for which no pool has capacity."""
    world.ledger.open_attempt(RUN, number, launch_try=1, source=Launched("{}"), now=START)
    confirm_checkpoint(world, RUN, number, NO_CAPACITY)
    return decide_next(world, RUN, number, NO_CAPACITY, max_turns=3)


def child_of(world: World, name: str = f"{RUN}-r2") -> dict:
    world.workflow.running.add(f"arn:{name}")
    return prepare_run(world, execution(name), CHILD)


def test_run_continues_in_another_execution_after_the_maximum_number_of_turns():
    world = prepared(max_attempts=100)
    assert "continue_as" not in refused(world, 1)
    assert "continue_as" not in refused(world, 2)
    decided = refused(world, 3)
    assert (decided["decision"], decided["continue_as"]) == ("relaunch", f"{RUN}-r2")
    assert decide_next(world, RUN, 3, NO_CAPACITY, max_turns=3) == decided


def test_turns_of_an_execution_fit_into_its_history():
    assert MAX_TURNS * EVENTS_A_TURN < MAX_EVENTS


def test_child_has_turns_of_its_own_and_the_next_attempt():
    world = prepared(max_attempts=100)
    for number in (1, 2, 3):
        refused(world, number)
    for _ in range(2):  # PrepareRun may be repeated
        assert child_of(world) == {"run_id": RUN, "attempt": 4}
    run = world.ledger.find_run(RUN)
    assert (run.execution, run.executions, run.ancestors) == (f"{RUN}-r2", 2, (ARN,))
    assert "continue_as" not in refused(world, 4)
    assert "continue_as" not in refused(world, 5)
    assert refused(world, 6)["continue_as"] == f"{RUN}-r3"


def test_run_that_ends_in_that_turn_is_not_continued():
    world = prepared(max_attempts=100)
    refused(world, 1)
    refused(world, 2)
    world.ledger.end_run(RUN, status=RunStatus.STOPPED, reason="enough", now=START)
    decided = decide_next(world, RUN, 3, NO_CAPACITY, max_turns=3)
    assert (decided["decision"], "continue_as" in decided) == ("finish", False)


def test_name_of_a_refused_execution_is_skipped():
    world = prepared(max_attempts=100)
    refused(world, 1)
    refused(world, 2)
    world.workflow.ended[f"arn:{RUN}-r2"] = "FAILED"  # a resume while the run continued
    assert refused(world, 3)["continue_as"] == f"{RUN}-r3"


def test_foreign_execution_cannot_take_over_a_live_run():
    world = prepared()
    with pytest.raises(RequestError, match="is running in the execution"):
        prepare_run(world, execution("other"), {"run_id": RUN, STARTED_BY: "arn:elsewhere"})
    assert world.ledger.find_run(RUN).execution == RUN


def test_child_of_a_run_that_was_stopped_meanwhile_does_not_revive_it():
    world = prepared()
    clean_up(world, execution_arn=ARN, name=RUN, status="ABORTED")
    with pytest.raises((RequestError, RunEndedError)):
        child_of(world)
    assert world.ledger.find_run(RUN).ended is RunStatus.STOPPED


def test_end_of_the_parent_leaves_the_childs_machines_alone():
    world = prepared()
    child_of(world)
    instance_id = launched(world, 1)
    for status in ("SUCCEEDED", "FAILED", "TIMED_OUT"):
        assert clean_up(world, execution_arn=ARN, name=RUN, status=status)["status"] == "superseded"
    assert [machine.instance_id for machine in world.fleet.running()] == [instance_id]
    assert f"arn:{RUN}-r2" in world.workflow.running


def test_stop_of_the_parent_stops_the_child():
    world = prepared()
    child_of(world)
    launched(world, 1)
    clean_up(world, execution_arn=ARN, name=RUN, status="ABORTED")
    assert world.workflow.status_of(f"arn:{RUN}-r2") == "ABORTED"
    clean_up(world, execution_arn=f"arn:{RUN}-r2", name=f"{RUN}-r2", status="ABORTED")
    assert world.ledger.find_run(RUN).ended is RunStatus.STOPPED
    assert world.fleet.running() == []


def test_run_that_another_state_machine_starts_may_carry_its_link():
    world = World()
    request = {"command": ["train"], STARTED_BY: "arn:pipeline"}
    assert prepare_run(world, execution(), request)["attempt"] == 1
    with pytest.raises(InvalidRequestError, match="markt"):
        prepare_run(world, execution("other"), {**request, "markt": "spot"})
