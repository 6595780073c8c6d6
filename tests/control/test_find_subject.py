"""A checkpoint of another run is found before anything is launched, and kept until the end."""

import pytest

from runctl.control.clean_up import clean_up
from runctl.control.find_subject import keep_subject
from runctl.model.checkpoint import Manifest
from runctl.model.errors import InvalidRequestError, RequestError
from runctl.model.identity import manifest_key
from runctl.model.outcome import RunStatus
from runctl.model.subject import Subject, pinned_keys
from tests.control.fakes import START, World
from tests.control.scenes import REQUEST, RUN, execution
from tests.control.steps import finish_run, prepare_run

TRAINED = "trained"


def save(world, number, step, *, attempt=1, commits=True):
    key = manifest_key(TRAINED, save=number, attempt=attempt)
    world.manifests[key] = Manifest(
        run_id=TRAINED, step=step, save=number, attempt=attempt, taken_at="", entries=()
    )
    if commits:
        world.ledger.commit_checkpoint(
            TRAINED, 0, step=step, save=number, manifest=key, progressed=True, now=START
        )
    return key


def trained(*steps):
    world = World()
    prepare_run(world, execution(TRAINED), REQUEST)
    for number, step in enumerate(steps, start=1):
        save(world, number, step)
    return world


def evaluation(checkpoint, **more):
    return {**REQUEST, "kind": "evaluate", "evaluate": {"checkpoint": checkpoint, **more}}


def prepare(world, checkpoint, **more):
    prepare_run(world, execution(), evaluation(checkpoint, **more))
    return world.ledger.find_run(RUN).subject


def problem_with(world, checkpoint, **more):
    with pytest.raises(InvalidRequestError) as caught:
        prepare(world, checkpoint, **more)
    (problem,) = caught.value.problems
    assert problem.field == "evaluate.checkpoint"
    assert RUN not in world.ledger.runs
    return problem.message


def pinned(world):
    return pinned_keys(world.ledger.find_run(TRAINED).pins)


def test_the_newest_checkpoint_of_a_run_is_kept_until_the_evaluation_has_ended():
    world = trained(10, 20)
    subject = prepare(world, f"run:{TRAINED}")
    assert (subject.run_id, subject.step, subject.save) == (TRAINED, 20, 2)
    assert pinned(world) == {subject.key}
    finish_run(world, RUN, status="completed", reason="the evaluation is done")
    assert pinned(world) == set()


def test_the_checkpoint_of_a_step_is_found():
    world = trained(10, 20, 30)
    assert prepare(world, f"run:{TRAINED}@20").save == 2


def test_a_later_save_of_the_same_step_wins():
    world = trained(10, 20, 10)
    assert prepare(world, f"run:{TRAINED}@10").save == 3


def test_a_repeated_call_keeps_the_subject_of_the_first():
    world = trained(10)
    first = prepare(world, f"run:{TRAINED}")
    save(world, 2, 20)
    assert prepare(world, f"run:{TRAINED}") == first
    assert first.key in pinned(world)


def test_a_stopped_evaluation_gives_up_what_it_kept():
    world = trained(10)
    prepare(world, f"run:{TRAINED}")
    clean_up(world, execution_arn=f"arn:{RUN}", name=RUN, status="ABORTED")
    assert pinned(world) == set()


def test_what_cannot_be_evaluated_is_reported_with_the_remedy():
    assert "there is no run nobody; `runctl list`" in problem_with(World(), "run:nobody")
    assert "no checkpoint yet; wait for the first one" in problem_with(trained(), f"run:{TRAINED}")
    message = problem_with(trained(10, 20, None), f"run:{TRAINED}@15")
    assert message.endswith("no checkpoint of step 15; it has save 3, step 20, step 10")


def test_a_save_that_was_not_committed_is_no_checkpoint():
    world = trained(10)
    save(world, 2, 20, commits=False)
    assert problem_with(world, f"run:{TRAINED}@20").endswith("it has step 10")


def test_a_run_that_ended_without_a_checkpoint_cannot_be_followed():
    world = trained()
    world.ledger.end_run(TRAINED, status=RunStatus.FAILED, reason="", now=START)
    message = problem_with(world, f"run:{TRAINED}", every_checkpoint=True)
    assert message == f"the run {TRAINED} has ended without a checkpoint"


def test_a_run_without_a_checkpoint_can_be_followed():
    assert prepare(trained(), f"run:{TRAINED}", every_checkpoint=True) is None


def test_a_checkpoint_that_was_removed_meanwhile_is_not_kept():
    world = trained(10)
    gone = Subject(run_id=TRAINED, key=manifest_key(TRAINED, save=9, attempt=1), step=90, save=9)
    with pytest.raises(RequestError, match="step 90 of trained was removed"):
        keep_subject(world, gone, by=RUN)
    assert pinned(world) == set()


def test_an_output_that_cannot_be_written_is_reported():
    world = trained(10)
    world.objects.problems["s3://data/results/"] = "may not be written"
    with pytest.raises(InvalidRequestError) as caught:
        prepare(world, f"run:{TRAINED}", output="s3://data/results")
    assert [problem.field for problem in caught.value.problems] == ["evaluate.output"]
    assert pinned(world) == set()


def test_objects_are_checked_like_inputs_and_named_by_their_fields():
    world = World()
    world.inputs.sizes = {("data", "best.pt"): 3, ("data", "test/1"): 4}
    assert prepare(world, "s3://data/best.pt", test_data="s3://data/test/") is None
    assert world.ledger.find_run(RUN).input_bytes == 7
    with pytest.raises(InvalidRequestError) as caught:
        prepare(World(), "s3://data/none/", test_data="s3://data/nothing/")
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["evaluate.checkpoint", "evaluate.test_data"]
