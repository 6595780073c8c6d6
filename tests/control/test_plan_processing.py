"""A processing run is planned before anything is launched: its shards, and its output."""

import pytest

from runctl.control.processing import plan_processing
from runctl.model.decision import DecisionKind, decide
from runctl.model.errors import InvalidRequestError
from runctl.model.kinds import PROCESS, policy_of
from runctl.model.node import NodeId, NodeProgress
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.shard import Shard
from runctl.model.shard_progress import ShardProgress
from tests.control.fakes import START, World
from tests.control.faulty_worlds import Fragile
from tests.control.scenes import REQUEST, RUN, execution, launched, training
from tests.control.steps import finish_run, prepare_run

OUTPUT = "s3://bucket/outputs/clean/"
PROCESSING = {
    **REQUEST,
    "kind": PROCESS,
    "process": {"input": "s3://bucket/inputs/raw/", "output": OUTPUT, "workers": 2},
}


def world_with(*sizes: int) -> World:
    world = World()
    world.inputs.sizes = {
        ("bucket", f"inputs/raw/{number:03d}"): size for number, size in enumerate(sizes)
    }
    return world


def problems(world, request):
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(world, execution(), request)
    assert world.ledger.runs == {}
    assert world.processing_jobs.plans == {}
    return {problem.field: problem.message for problem in caught.value.problems}


def test_the_plan_has_a_shard_for_each_file_and_the_output_is_reserved():
    world = world_with(5, 0, 7)
    prepare_run(world, execution(), PROCESSING)
    header, lines = world.processing_jobs.plans[RUN]
    assert [Shard.from_line(line).number for line in lines] == [0, 1, 2]
    assert (header.shards, header.files, header.size_bytes, header.largest_bytes) == (3, 3, 12, 7)
    assert world.processing_jobs.claims == {OUTPUT: RUN}


def test_a_repeated_call_keeps_the_plan_although_the_input_has_changed():
    world = world_with(5, 6)
    for _ in range(2):
        assert prepare_run(world, execution(), PROCESSING)["attempt"] == 1
        world.inputs.sizes["bucket", "inputs/raw/009"] = 1
    assert world.processing_jobs.plans[RUN][0].shards == 2


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_at_any_call_leaves_a_run_that_can_be_prepared_again(after):
    for fuse in range(1, 30):
        world = world_with(5, 6)
        fragile = Fragile(world, fuse=fuse, after=after, error=ConnectionError())
        try:
            prepare_run(fragile, execution(), PROCESSING)
        except ConnectionError:
            assert prepare_run(world, execution(), PROCESSING)["attempt"] == 1
        assert world.processing_jobs.plans[RUN][0].shards == 2
        assert world.processing_jobs.claims == {OUTPUT: RUN}
        if fragile.left > 0:
            return
    raise AssertionError("the fuse never outlasted the call")


def test_the_disk_needs_room_for_a_few_shards_of_each_worker_only():
    world = world_with(*[10] * 100)
    prepare_run(world, execution(), PROCESSING)
    assert world.ledger.find_run(RUN).input_bytes == 3 * 2 * 10


def test_data_that_cannot_be_processed_is_reported_with_its_field():
    world = world_with()
    world.processing_jobs.problems[OUTPUT] = "may not be written"
    found = problems(world, PROCESSING)
    assert "there are no objects below" in found["process.input"]
    assert found["process.output"] == "may not be written"


def test_a_bucket_elsewhere_is_reported():
    world = world_with(1)
    world.objects.problems["s3://theirs/"] = "the bucket theirs is in eu-west-1"
    places = {"input": "s3://theirs/raw/", "output": "s3://theirs/clean/"}
    found = problems(world, {**PROCESSING, "process": places})
    assert found["process.input"] == found["process.output"] == "the bucket theirs is in eu-west-1"


def test_an_output_of_another_run_is_refused():
    world = world_with(1)
    world.processing_jobs.claims[OUTPUT] = "run-0"
    assert "the results of the run run-0" in problems(world, PROCESSING)["process.output"]


def test_unreadable_and_unsafe_objects_are_reported():
    world = world_with(1)
    world.inputs.refused = {("bucket", "inputs/raw/000")}
    assert "may not be read" in problems(world, PROCESSING)["process.input"]
    world.inputs.sizes = {("bucket", "inputs/raw/a/../b"): 1}
    assert "cannot be staged" in problems(world, PROCESSING)["process.input"]


def test_too_much_for_one_job_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(plan_processing, "MAX_SHARDS", 3)
    monkeypatch.setattr(plan_processing, "MAX_FILES", 5)
    few = world_with(1, 1, 1, 1)
    assert "put more files into each" in problems(few, PROCESSING)["process.input"]
    larger = {**PROCESSING["process"], "shard_files": 2}
    prepare_run(few, execution(), {**PROCESSING, "process": larger})
    many = world_with(*[1] * 6)
    request = {**PROCESSING, "process": larger}
    assert "pack small files into archives" in problems(many, request)["process.input"]


def test_several_instances_need_the_other_state_machine():
    several = {**PROCESSING["process"], "instances": 3}
    found = problems(world_with(1), {**PROCESSING, "process": several})
    assert "needs the state machine of processing jobs" in found["process.instances"]


def test_the_result_names_the_output():
    world = world_with(1)
    prepare_run(world, execution(), PROCESSING)
    result = finish_run(world, RUN, status="completed", reason="all 1 shards are done")
    assert result["outputs"] == OUTPUT


@pytest.mark.parametrize(("ended", "kind"), [(2, DecisionKind.RELAUNCH), (0, DecisionKind.GIVE_UP)])
def test_a_run_goes_on_as_long_as_its_attempts_end_shards(ended, kind):
    world = world_with(1, 1, 1)
    prepare_run(world, execution(), PROCESSING)
    lost = Outcome(kind=OutcomeKind.LOST, reason="silence")
    for number in (1, 2, 3):
        training(world, number) if number == 1 else launched(world, number)
        shards = ShardProgress(total=3, done=ended, found=0 if number == 2 else ended)
        world.ledger.record_progress(NodeId(RUN, number, 0), NodeProgress(shards=shards), now=START)
        if number < 3:
            world.ledger.end_attempt(RUN, number, outcome=lost, now=START)
    run, attempts = world.ledger.find_run(RUN), world.ledger.attempts(RUN)
    decision = decide(run, attempts, lost, policy=policy_of(PROCESS), now=START)
    assert decision.kind is kind
