"""PrepareRun reports all problems at once, and has the same result when it is repeated."""

from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.control import check_inputs
from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.errors import InvalidRequestError, NotFoundError, RequestError
from runctl.model.outcome import RunStatus
from runctl.model.pool import MachineKind
from runctl.model.request import RunRequest
from runctl.model.root_volume import RootVolume
from runctl.model.type_network import TypeNetwork
from tests.control.fakes import START, World
from tests.control.scenes import (
    ARN,
    OF_OTHER_RUNS,
    REQUEST,
    RUN,
    execution,
    launched,
    prepared,
    training,
)
from tests.control.steps import prepare_run

END = {"status": RunStatus.FAILED, "reason": "over", "now": START}


def test_a_new_run_begins_with_attempt_one_however_often_it_is_prepared():
    world = World()
    for _ in range(2):
        assert prepare_run(world, execution(), REQUEST) == {"run_id": RUN, "attempt": 1}
    assert world.ledger.find_run(RUN).request.program.command == ("train",)


def test_all_problems_are_reported_at_once():
    world = World()
    world.objects.problems["s3://bucket/a.tar.gz"] = "is gone"
    bad = {"script": "t.py", "code": "s3://bucket/a.tar.gz", "deadline": "2020-01-01T00:00:00Z"}
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(world, execution("a name with spaces"), bad)
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"execution name", "code", "deadline"}
    assert world.ledger.runs == {}


def test_the_size_of_all_inputs_is_stored_with_the_run():
    world = World()
    world.inputs.sizes = {("data", "a/1"): 5, ("data", "a/2"): 7, ("bucket", "inputs/b"): 11}
    inputs = {"a": "s3://data/a/", "b": "s3://bucket/inputs/b"}
    prepare_run(world, execution(), {**REQUEST, "inputs": inputs})
    assert world.ledger.find_run(RUN).input_bytes == 23


def test_inputs_that_cannot_be_staged_are_reported_with_all_other_problems(monkeypatch):
    monkeypatch.setattr(check_inputs, "MAX_OBJECTS", 3)
    world = World()
    world.objects.problems["s3://there/"] = "is in eu-west-1"
    world.inputs.sizes = {("data", f"many/{n}"): 1 for n in range(4)} | {("data", "secret"): 1}
    world.inputs.refused = {("data", "secret")}
    inputs = {
        "far": "s3://there/a/",
        "none": "s3://data/nothing/",
        "many": "s3://data/many/",
        "secret": "s3://data/secret",
        "own": "s3://bucket/other/",
    }
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(
            world, execution(), {**REQUEST, "deadline": "2020-01-01T00:00:00Z", "inputs": inputs}
        )
    found = {problem.field: problem.message for problem in caught.value.problems}
    assert found.keys() == {"deadline", *(f"inputs.{name}" for name in inputs)}
    assert "eu-west-1" in found["inputs.far"]
    assert "no objects below s3://data/nothing/" in found["inputs.none"]
    assert "pack small files into archives" in found["inputs.many"]
    assert "may not be read" in found["inputs.secret"]
    assert "copy it below s3://bucket/inputs/" in found["inputs.own"]
    assert world.ledger.runs == {}


def test_a_missing_checkpoint_has_the_field_of_its_kind_of_run():
    where = {"checkpoint": "s3://data/best/"}
    for kind in ("serve", "evaluate"):
        with pytest.raises(InvalidRequestError) as caught:
            prepare_run(World(), execution(), {**REQUEST, "kind": kind, kind: where})
        (problem,) = caught.value.problems
        assert problem.field == f"{kind}.checkpoint"
        assert "no objects below s3://data/best/" in problem.message


def stored_outputs(world: World) -> World:
    world.inputs.sizes = {
        ("bucket", uri.removeprefix("s3://bucket/")): 1 for uri in OF_OTHER_RUNS.values()
    }
    return world


def test_what_no_session_could_be_limited_to_is_refused_before_the_run_exists():
    world = stored_outputs(World())
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(world, execution("a b"), {**REQUEST, "inputs": OF_OTHER_RUNS})
    assert [problem.field for problem in caught.value.problems] == ["execution name", "inputs"]
    assert "cannot name 20 objects of other runs" in str(caught.value)
    assert "copy them below one prefix of inputs/" in str(caught.value)
    assert world.ledger.runs == {}
    few = dict(list(OF_OTHER_RUNS.items())[:3])
    assert prepare_run(world, execution(), {**REQUEST, "inputs": few})["attempt"] == 1


def test_a_recorded_run_that_gets_no_session_is_not_continued():
    world = stored_outputs(prepared())
    world.workflow.running.clear()
    world.ledger.end_run(RUN, **END)
    held = world.ledger.find_run(RUN)
    world.ledger.runs[RUN] = replace(
        held, request=RunRequest.from_stored({**REQUEST, "inputs": OF_OTHER_RUNS})
    )
    with pytest.raises(InvalidRequestError, match="inputs: the session of the run cannot name 20"):
        prepare_run(world, execution("run-1-r2"), {"run_id": RUN})
    assert world.ledger.find_run(RUN).ended is RunStatus.FAILED


def test_a_disk_that_ec2_would_refuse_is_reported_with_all_other_problems():
    world = World()
    world.fleet.volumes = {MachineKind.X86_CPU: RootVolume(device="/dev/sda1", gib=50)}
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(world, execution("a b"), {**REQUEST, "disk": {"gib": 20}})
    assert [problem.field for problem in caught.value.problems] == ["execution name", "disk"]
    assert "gib: 20 is less than the 50 GiB" in str(caught.value)


def test_the_size_of_the_packed_code_is_stored_with_the_run():
    world = World()
    world.objects.sizes["s3://bucket/a.tar.gz"] = 17
    prepare_run(world, execution(), {"script": "t.py", "code": "s3://bucket/a.tar.gz"})
    assert world.ledger.find_run(RUN).code_bytes == 17


def test_a_plain_text_key_is_refused_and_the_places_that_store_it_are_named():
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(World(), execution(), {**REQUEST, "env": {"WANDB_API_KEY": "abc123secret"}})
    assert [problem.field for problem in caught.value.problems] == ["env.WANDB_API_KEY", "input"]
    assert "replace the secret where it was issued" in str(caught.value)
    assert "abc123secret" not in str(caught.value)


def test_an_invalid_name_is_reported_together_with_invalid_fields():
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(World(), execution("x" * 65), {"command": [], "markt": "spot"})
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["execution name", "command", "markt"]


def test_a_script_in_s3_is_looked_for():
    world = World()
    world.objects.problems["s3://bucket/t.py"] = "does not exist"
    with pytest.raises(InvalidRequestError, match="script: does not exist"):
        prepare_run(world, execution(), {"script": "s3://bucket/t.py"})


def test_a_name_that_an_old_run_has_is_refused():
    world = prepared()
    again = execution(started_at=START + timedelta(days=91))
    with pytest.raises(InvalidRequestError, match="is a run of 2030-01-01"):
        prepare_run(world, again, REQUEST)


def test_an_ended_run_continues_with_its_own_request_and_the_next_attempt():
    world = prepared()
    launched(world, 1)
    world.workflow.running.clear()
    world.ledger.end_run(RUN, **END)
    for _ in range(2):
        answer = prepare_run(world, execution("run-1-r2"), {"run_id": RUN})
        assert answer == {"run_id": RUN, "attempt": 2}
    run = world.ledger.find_run(RUN)
    assert (run.ended, run.executions, run.request.program.command) == (None, 2, ("train",))


def test_a_run_that_has_not_ended_cannot_be_continued():
    world = prepared()
    with pytest.raises(RequestError, match="is running in the execution run-1"):
        prepare_run(world, execution("run-1-r2"), {"run_id": RUN})
    assert world.ledger.find_run(RUN).execution_arn == ARN


def test_a_run_whose_finish_is_still_running_cannot_be_continued():
    # Otherwise that execution's repeated FinishRun would end the run under us.
    world = prepared()
    world.ledger.end_run(RUN, **END)
    with pytest.raises(RequestError, match="is running in"):
        prepare_run(world, execution("run-1-r2"), {"run_id": RUN})


def test_leftovers_of_an_execution_that_ended_unnoticed_are_ended_first():
    world = prepared()
    first = training(world)
    world.workflow.running.clear()
    prepare_run(world, execution("run-1-r2"), {"run_id": RUN})
    assert world.fleet.terminated == [first]
    assert world.ledger.find_attempt(RUN, 1).ended is not None
    assert world.ledger.find_run(RUN).ended is None


def test_an_unknown_run_cannot_be_continued():
    with pytest.raises(NotFoundError, match="no run run-1"):
        prepare_run(World(), execution("run-1-r2"), {"run_id": RUN})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"run_id": RUN, "market": "spot"}, "not allowed with market"),
        ({"run_id": "a b"}, "'a b' is not"),
        ({"run_id": 3}, "3 is not"),
        ({"run_id": RUN, "fresh_environment": "yes"}, "'yes' is not a boolean"),
    ],
)
def test_a_continuation_contains_only_the_run_id_and_whether_its_environment_is_fresh(
    document, message
):
    with pytest.raises(InvalidRequestError, match=message):
        prepare_run(prepared(), execution("run-1-r2"), document)


def test_a_continuation_with_a_fresh_environment_has_its_next_generation_once():
    world = prepared()
    generations = []
    for number, fresh in (
        (2, {"fresh_environment": True}),
        (3, {}),
        (4, {"fresh_environment": True}),
    ):
        world.ledger.end_run(RUN, **END)
        world.workflow.running.clear()
        for _ in range(2):  # PrepareRun may be repeated
            prepare_run(world, execution(f"run-1-r{number}"), {"run_id": RUN, **fresh})
        generations.append(world.ledger.find_run(RUN).environment_generation)
    assert generations == [1, 1, 2]


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_an_input_that_is_not_an_object_is_refused(document):
    with pytest.raises(InvalidRequestError, match="must be a JSON object"):
        prepare_run(World(), execution(), document)


def test_types_that_the_images_cannot_drive_are_refused_unless_the_image_is_the_owners():
    with pytest.raises(InvalidRequestError, match=r"instance_types: p3.2xlarge needs an image"):
        prepared(instance_types=["p3.2xlarge"])
    world = World()
    world.fleet.own_images = frozenset({MachineKind.X86_GPU})
    assert prepared(world, instance_types=["p3.2xlarge"]).ledger.find_run(RUN) is not None


def test_a_type_that_cannot_be_a_node_is_refused_for_several_nodes_only():
    world = World()
    world.fleet.networks = {"p4d.24xlarge": TypeNetwork(cards=4), "g5.48xlarge": TypeNetwork()}
    types = {**REQUEST, "instance_types": ["p4d.24xlarge", "g5.48xlarge", "x9.xlarge"]}
    with pytest.raises(InvalidRequestError, match=r"p4d\.24xlarge \(4 network cards\)") as caught:
        prepare_run(world, execution(), {**types, "nodes": 2})
    assert [problem.field for problem in caught.value.problems] == ["instance_types"]
    assert prepare_run(world, execution(), types)["attempt"] == 1


def test_what_the_deployment_does_not_allow_is_refused():
    world = World()
    world.fleet.limits = DeploymentLimits(instance_types=("g5.*",), max_instances=3)
    bad = {**REQUEST, "instance_types": ["m5.large"], "nodes": 4}
    with pytest.raises(InvalidRequestError) as caught:
        prepare_run(world, execution(), bad)
    assert [problem.field for problem in caught.value.problems] == ["instance_types", "nodes"]
    good = {**REQUEST, "instance_types": ["g5.xlarge"], "nodes": 3}
    assert prepare_run(world, execution(), good)["attempt"] == 1
