"""However an execution ended, and whatever noticed the end, nothing of it is left."""

import itertools
from collections.abc import Callable
from datetime import timedelta

import pytest

from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Launched
from tests.control.fakes import World
from tests.control.scenes import ARN, RUN, launched, prepared, stray, training
from tests.control.steps import clean_up, finish_run, reconcile

STATUSES = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")


def nothing(_world: World) -> None:
    """It came no further than PrepareRun."""


def launched_unrecorded(world: World) -> None:
    """The launch function stopped before it wrote to the ledger."""
    pools = [Pool("m5.large", "us-east-1a", "spot")]
    request = world.fleet.build_request(run_id=RUN, attempt=1, launch_try=1, pools=pools)
    now = world.clock.now()
    world.ledger.open_attempt(RUN, 1, launch_try=1, source=Launched(request), now=now)
    world.fleet.launch(request)


def waiting(world: World) -> None:
    """It has its machine and no token yet."""
    launched(world)


def at_work(world: World) -> None:
    training(world)


def with_a_second_machine(world: World) -> None:
    training(world)
    stray(world)


def replaced_inside_the_notice(world: World) -> None:
    training(world)
    world.clock.advance(timedelta(hours=2))
    world.ledger.record_notice(NodeId(RUN, 1, 0), now=world.clock.now())
    launched(world, 2)


def completed_and_still_there(world: World) -> None:
    """It reported, and its machine never shut down."""
    training(world)
    now = world.clock.now()
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=now)


LEFT = (
    nothing,
    launched_unrecorded,
    waiting,
    at_work,
    with_a_second_machine,
    replaced_inside_the_notice,
    completed_and_still_there,
)
# How often the event of the end arrived, and whether FinishRun had been before it.
HEARD = ("never", "once", "twice", "after FinishRun")


@pytest.mark.parametrize(
    ("status", "left", "heard", "is_reachable"),
    list(itertools.product(STATUSES, LEFT, HEARD, (True, False))),
    ids=lambda value: value.__name__ if callable(value) else str(value).replace(" ", "-"),
)
def test_nothing_is_left_of_an_execution_that_ended(
    status: str, left: Callable[[World], None], heard: str, is_reachable: bool
) -> None:
    world = prepared()
    left(world)
    if not is_reachable:
        world.commands.unreachable = set(world.fleet.machines)
    world.workflow.running.discard(ARN)
    world.workflow.ended[ARN] = status
    if heard == "after FinishRun":
        finish_run(world, RUN, status="completed", reason="")
    for _ in range({"never": 0, "twice": 2}.get(heard, 1)):
        clean_up(world, execution_arn=ARN, name=RUN, status=status)
    # Agents that were asked to stop do not, and machines that should shut down do not.
    for _ in range(12):
        world.clock.advance(timedelta(minutes=15))
        assert reconcile(world)["failed"] == []
    assert world.fleet.running() == []
    assert all(fleet.is_deleted for fleet in world.fleet.fleets.values())
    assert all(attempt.ended for attempt in world.ledger.attempts(RUN))
    run = world.ledger.find_run(RUN)
    assert run is not None
    assert run.is_settled
    assert len(world.notices.sent) == 1
    # Deleting a fleet terminates its machines, so none may be deleted before they are gone.
    assert len(world.fleet.terminated) == len(set(world.fleet.terminated))
