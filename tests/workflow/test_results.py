"""The state machine reads no key that the functions' results lack, and neither did earlier ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runctl.control.results import (
    LaunchedAttempt,
    NextStep,
    RunResult,
    TrainStart,
    TrainStatus,
    UnlaunchedAttempt,
)
from runctl.model.decision import DecisionKind
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from stacks.workflows.definition import (
    called_functions,
    definition_names,
    read_definition,
    read_definition_file,
)
from tests.workflow.reads import Shape, problems, shapes_of_functions

CURRENT = read_definition()
# An execution keeps its definition for up to a year; the functions are those of the upgrade.
RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.asl.yaml"))
DEFINITIONS = [CURRENT, *map(read_definition_file, RECORDED)]
NAMES = ["current", *(path.name for path in RECORDED)]
PARENTS = definition_names()[1:]
READ = [
    ("prepare_run", "run_id"),
    ("prepare_run", "attempt"),
    ("launch_instances", "launched"),
    ("launch_instances", "heartbeat_seconds"),
    ("launch_instances", "outcome"),
    ("train", "outcome"),
    ("confirm_checkpoint", "outcome"),
    ("decide_next", "attempt"),
    ("decide_next", "decision"),
    ("decide_next", "wait_seconds"),
    ("decide_next", "reason"),
    ("decide_next", "status"),
    ("finish_run", "status"),
    ("finish_run", "reason"),
]
# What only the current definition reads.
READ_NOW = [("record_image", "recorded"), ("record_image", "status"), ("record_image", "reason")]


def without(shape: Shape, key: str) -> Shape:
    """Return a shape that lacks a key."""
    return Shape(
        shape.required - {key},
        shape.optional - {key},
        frozenset((name, value) for name, value in shape.constants if name != key),
    )


def shapes(definition: dict[str, Any]) -> dict[str, list[Shape]]:
    return shapes_of_functions(sorted(called_functions(definition)))


def test_there_is_a_definition_of_an_earlier_version() -> None:
    assert len(DEFINITIONS) > 1
    assert CURRENT not in DEFINITIONS[1:]


@pytest.mark.parametrize(
    "definition", [*DEFINITIONS, *map(read_definition, PARENTS)], ids=[*NAMES, *PARENTS]
)
def test_every_key_that_the_state_machine_reads_is_in_the_results(
    definition: dict[str, Any],
) -> None:
    assert problems(definition, shapes(definition)) == []


@pytest.mark.parametrize(("function", "key"), READ)
@pytest.mark.parametrize("definition", DEFINITIONS, ids=NAMES)
def test_a_result_that_lacks_a_key_is_found(
    definition: dict[str, Any], function: str, key: str
) -> None:
    known = shapes(definition)
    known[function] = [without(shape, key) for shape in known[function]]
    assert any(f".{key} does not exist" in problem for problem in problems(definition, known))


@pytest.mark.parametrize(("function", "key"), READ_NOW)
def test_a_result_that_lacks_a_key_of_the_current_definition_is_found(
    function: str, key: str
) -> None:
    known = shapes(CURRENT)
    known[function] = [without(shape, key) for shape in known[function]]
    assert any(f".{key} does not exist" in problem for problem in problems(CURRENT, known))


def test_a_key_that_may_be_missing_is_found_unless_its_existence_is_tested() -> None:
    known = shapes(CURRENT)
    (step,) = known["decide_next"]
    weaker = replace(
        step,
        required=step.required - {"wait_seconds"},
        optional=step.optional | {"wait_seconds"},
    )
    found = problems(CURRENT, {**known, "decide_next": [weaker]})
    assert any("wait_seconds may be missing" in problem for problem in found)
    assert "status" in step.optional


def test_a_variable_that_is_not_assigned_on_every_way_is_found() -> None:
    definition = read_definition()
    del definition["States"]["PrepareRun"]["Assign"]["attempt"]
    found = problems(definition, shapes(definition))
    assert "LaunchInstances: the variable attempt may not be assigned" in found


def mapping(mode: str, **processor: Any) -> dict[str, Any]:
    """Return a definition with a Map, whose processor reads `processor` as its only output."""
    inner = {"Type": "Pass", "Output": processor, "End": True}
    return {
        "StartAt": "Prepare",
        "States": {
            "Prepare": {
                "Type": "Pass",
                "Assign": {"group": "{% 'sweep-1' %}"},
                "Output": {"items": []},
                "Next": "Each",
            },
            "Each": {
                "Type": "Map",
                "Items": "{% $states.input.items %}",
                "ItemSelector": {
                    "run": "{% $states.context.Map.Item.Value %}",
                    "of": "{% $group %}",
                },
                "ItemProcessor": {
                    "ProcessorConfig": {"Mode": mode},
                    "StartAt": "Inner",
                    "States": {"Inner": inner},
                },
                "ResultWriter": {"Resource": "arn:aws:states:::s3:putObject"},
                "Next": "Last",
            },
            "Last": {
                "Type": "Pass",
                "Output": "{% $states.input.ResultWriterDetails.Key %}",
                "End": True,
            },
        },
    }


def test_the_states_of_a_map_read_what_its_selector_makes() -> None:
    assert problems(mapping("DISTRIBUTED", run="{% $states.input.run %}"), {}) == []
    found = problems(mapping("DISTRIBUTED", run="{% $states.input.attempt %}"), {})
    assert found == ["Inner: input.attempt does not exist"]


def test_only_an_inline_map_hands_its_variables_on() -> None:
    assert problems(mapping("INLINE", group="{% $group %}"), {}) == []
    found = problems(mapping("DISTRIBUTED", group="{% $group %}"), {})
    assert found == ["Inner: the variable group may not be assigned"]


def test_what_follows_a_map_reads_what_its_writer_returns() -> None:
    definition = mapping("DISTRIBUTED")
    definition["States"]["Last"]["Output"] = "{% $states.input.results %}"
    assert problems(definition, {}) == ["Last: input.results does not exist"]
    del definition["States"]["Each"]["ResultWriter"]
    assert problems(definition, {}) == []


def test_only_optional_keys_are_left_out_of_a_document() -> None:
    step = NextStep(
        run_id="run-1",
        decision=DecisionKind.RELAUNCH,
        attempt=2,
        wait_seconds=0,
        reason="the instance was reclaimed",
    )
    document = step.as_document()
    assert set(document) == NextStep.required_keys()
    assert "status" not in document
    ended = replace(step, decision=DecisionKind.FINISH, status=RunStatus.COMPLETED)
    assert ended.as_document()["status"] == "completed"
    result = RunResult(
        run_id="run-1",
        status=RunStatus.FAILED,
        reason="",
        step=None,
        save=None,
        attempts=1,
        checkpoint=None,
        outputs="s3://b/o",
    )
    assert set(result.as_document()) == RunResult.required_keys()
    assert result.as_document()["checkpoint"] is None


def test_a_document_contains_plain_values() -> None:
    outcome = Outcome(kind=OutcomeKind.NO_CAPACITY, reason="none")
    refused = UnlaunchedAttempt(run_id="run-1", attempt=1, outcome=outcome).as_document()
    assert (refused["launched"], refused["outcome"]) == (False, outcome.as_document())
    launched = LaunchedAttempt(run_id="run-1", attempt=1, heartbeat_seconds=300)
    assert launched.as_document()["launched"] is True
    started = TrainStart(run_id="run-1", attempt=1, status=TrainStatus.STARTED)
    assert started.as_document()["status"] == "started"
