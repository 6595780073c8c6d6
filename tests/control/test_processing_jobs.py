"""A processing job on several instances: its batches are runs, and their results one dataset."""

import pytest

from runctl.control.processing.finish_processing import finish_processing
from runctl.control.processing.plan_shards import plan_shards
from runctl.model.errors import InvalidRequestError, NotFoundError, RequestError
from runctl.model.outcome import RunStatus
from tests.control.fakes import START, World
from tests.control.faulty_worlds import Fragile
from tests.control.scenes import execution
from tests.control.steps import prepare_run
from tests.control.test_plan_processing import OUTPUT, PROCESSING, world_with

JOB = "job"
SEVERAL = {**PROCESSING, "process": {**PROCESSING["process"], "instances": 2}}


def planned(world: World, **process):
    request = {**SEVERAL, "process": {**SEVERAL["process"], **process}}
    return plan_shards(world, execution(JOB), request)


def member(plan, number: int) -> dict:
    """Return the request of a batch, as the state machine makes it."""
    return member_of(plan, plan.batches[number - 1])


def member_of(plan, batch) -> dict:
    part = {"first_shard": batch["first"], "shard_count": batch["count"]}
    return {**plan.request, "process": {**plan.request["process"], **part}}


def run_all(world: World, plan, status: RunStatus = RunStatus.COMPLETED, *, end=None) -> None:
    for number, batch in enumerate(plan.batches, 1):
        prepare_run(world, execution(batch["run_id"]), member(plan, number))
        if number <= (end or len(plan.batches)):
            world.ledger.end_run(batch["run_id"], status=status, reason="why", now=START)


def finish(world: World, cause: str = ""):
    return finish_processing(world, JOB, execution_arn=f"arn:{JOB}", cause=cause)


def test_the_batches_are_runs_of_one_group_with_one_plan():
    world = world_with(*[1] * 20)
    plan = planned(world)
    assert (plan.group_id, plan.instances, len(plan.batches)) == (JOB, 2, 8)
    assert plan.batches[0] == {
        "run_id": "job-0001", "first": 0, "count": 2, "execution": "job-0001", "continues": False,
    }  # fmt: skip
    assert world.groups.find_group(JOB).kind == "process"
    assert world.processing_jobs.claims == {OUTPUT: JOB}
    world.inputs.sizes.clear()  # its members list nothing
    prepare_run(world, execution("job-0008"), member(plan, 8))
    run = world.ledger.find_run("job-0008")
    assert (run.request.group, run.request.process.first_shard) == (JOB, 17)
    assert run.input_bytes == 6
    assert list(world.processing_jobs.plans) == [JOB]


@pytest.mark.parametrize("after", [False, True])
def test_planning_may_fail_anywhere_and_be_repeated(after):
    for fuse in range(1, 30):
        world = world_with(*[1] * 20)
        fragile = Fragile(world, fuse=fuse, after=after, error=ConnectionError())
        try:
            first = planned(fragile)
        except ConnectionError:
            first = planned(world)
        assert planned(world) == first
        if fragile.left > 0:
            return
    raise AssertionError("the fuse never outlasted the call")


def test_all_problems_of_a_job_are_reported_at_once():
    world = world_with()
    world.processing_jobs.problems[OUTPUT] = "may not be written"
    with pytest.raises(InvalidRequestError) as caught:
        plan_shards(world, execution("x" * 60), {**SEVERAL, "instance_id": "i-0123456789abcdef0"})
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"execution name", "instance_id", "process.input", "process.output"}
    assert world.groups.find_group("x" * 60) is None


def test_another_kind_of_run_is_no_job():
    with pytest.raises(InvalidRequestError, match="kind: must be process"):
        plan_shards(world_with(1), execution(JOB), {"command": ["true"]})


def test_a_part_without_its_job_is_refused():
    part = {**PROCESSING["process"], "shard_count": 1}
    request = {**PROCESSING, "process": part, "group": "elsewhere"}
    with pytest.raises(InvalidRequestError, match="start the whole job"):
        prepare_run(world_with(1), execution(), request)


def test_the_parts_of_the_index_become_one_when_all_runs_are_completed():
    world = world_with(*[1] * 20)
    run_all(world, planned(world))
    result = finish(world)
    assert (result.status, result.reason) == (RunStatus.COMPLETED, "all 20 shards are done")
    assert (result.outputs, result.shards, result.failed) == (OUTPUT, 20, 0)
    assert world.processing_jobs.joined == [(JOB, [0, 2, 5, 7, 10, 12, 15, 17])]
    assert finish(world).status is RunStatus.COMPLETED
    assert world.groups.find_group(JOB).ended is RunStatus.COMPLETED


@pytest.mark.parametrize(("failed", "status"), [(2, RunStatus.COMPLETED), (3, RunStatus.FAILED)])
def test_failures_are_tolerated_for_the_job_as_a_whole(failed, status):
    world = world_with(*[1] * 20)
    run_all(world, planned(world, tolerated_failures=0.1))
    world.processing_jobs.failed = failed
    result = finish(world)
    assert result.status is status
    assert f"{failed} " in result.reason


def test_the_first_run_that_failed_is_the_reason():
    world = world_with(*[1] * 20)
    run_all(world, planned(world), RunStatus.FAILED, end=1)
    result = finish(world, cause="the map failed")
    assert (result.status, result.reason) == (RunStatus.FAILED, "job-0001: why")
    assert world.processing_jobs.joined == []


def test_a_job_whose_runs_never_began_ends_with_the_cause():
    world = world_with(1)
    planned(world)
    assert finish(world, cause="no permission").reason == "no permission"
    with pytest.raises(NotFoundError):
        finish_processing(world, "other", execution_arn="arn:other")


def test_a_job_that_was_stopped_says_so():
    world = world_with(*[1] * 4)
    run_all(world, planned(world), RunStatus.STOPPED)
    world.groups.request_stop(JOB)
    assert finish(world).status is RunStatus.STOPPED


def ended_job(*ends: RunStatus) -> World:
    """Return a world with a job of four runs that has failed; `ends` are those of the first."""
    world = world_with(*[1] * 4)
    plan = planned(world)
    assert len(plan.batches) == 4
    for number, status in enumerate(ends, 1):
        batch = plan.batches[number - 1]
        prepare_run(world, execution(batch["run_id"]), member(plan, number))
        world.ledger.end_run(batch["run_id"], status=status, reason="why", now=START)
    assert finish(world).status is RunStatus.FAILED
    return world


def resumed(world: World, number: int = 2, **more):
    return plan_shards(world, execution(f"{JOB}-r{number}"), {"group_id": JOB, **more})


def test_a_job_is_resumed_with_the_runs_that_are_not_completed():
    world = ended_job(RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.STOPPED)
    world.inputs.sizes.clear()  # nothing is listed again
    plan = resumed(world)
    assert [(batch["execution"], batch["continues"]) for batch in plan.batches] == [
        ("job-0002-r2", True),
        ("job-0003-r2", True),
        ("job-0004", False),
    ]
    assert resumed(world) == plan
    group = world.groups.find_group(JOB)
    assert (group.ended, group.execution) == (None, "job-r2")
    for batch in plan.batches:
        given = {"run_id": batch["run_id"]} if batch["continues"] else member_of(plan, batch)
        prepare_run(world, execution(batch["execution"]), given)
        world.ledger.end_run(
            batch["run_id"], status=RunStatus.COMPLETED, reason="", now=world.clock.now()
        )
    result = finish_processing(world, JOB, execution_arn="arn:job-r2")
    assert result.status is RunStatus.COMPLETED
    assert world.groups.find_group(JOB).ended is RunStatus.COMPLETED


def test_a_run_that_failed_again_gets_the_name_of_its_next_execution():
    world = ended_job(RunStatus.FAILED)
    resumed(world)
    prepare_run(world, execution("job-0001-r2"), {"run_id": "job-0001"})
    world.ledger.end_run("job-0001", status=RunStatus.FAILED, reason="again", now=START)
    finish_processing(world, JOB, execution_arn="arn:job-r2")
    assert resumed(world, 3).batches[0]["execution"] == "job-0001-r3"


def test_a_job_without_anything_left_only_makes_its_index_again():
    world = world_with(*[1] * 4)
    run_all(world, planned(world))
    finish(world)
    assert resumed(world).batches == ()
    again = finish_processing(world, JOB, execution_arn="arn:job-r2")
    assert again.status is RunStatus.COMPLETED


def test_a_job_whose_runs_still_save_is_not_resumed_yet():
    world = ended_job(RunStatus.FAILED)
    prepare_run(world, execution("job-0001-r2"), {"run_id": "job-0001"})
    with pytest.raises(RequestError, match="job-0001 has not ended yet"):
        resumed(world)
    assert world.groups.find_group(JOB).execution == JOB


def test_a_job_that_runs_is_not_resumed():
    world = world_with(*[1] * 4)
    planned(world)
    world.workflow.running.add(f"arn:{JOB}")
    with pytest.raises(RequestError, match="is running in the execution job"):
        resumed(world)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"group_id": "none"}, "there is no processing job none"),
        ({"group_id": 7}, "there is no processing job 7"),
        ({"group_id": JOB, "command": ["x"]}, "not allowed with command"),
    ],
)
def test_what_is_no_job_is_not_resumed(document, error):
    world = ended_job(RunStatus.FAILED)
    with pytest.raises((NotFoundError, InvalidRequestError), match=error):
        plan_shards(world, execution("job-r2"), document)
