# ruff: noqa: SLF001 - it changes how ministack creates and updates state machines
"""Definitions of state machines: what AWS refuses when one is created or updated.

Source: the Amazon States Language specification. Wrong fields of a state are not all found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import stepfunctions as sfn
from ministack.services.cloudformation import provisioners

_TYPES = frozenset({"Task", "Pass", "Choice", "Wait", "Succeed", "Fail", "Parallel", "Map"})
_LAST = frozenset({"Succeed", "Fail"})
_ONLY_DISTRIBUTED = (
    "ItemBatcher",
    "ItemReader",
    "Label",
    "ResultWriter",
    "ToleratedFailureCount",
    "ToleratedFailureCountPath",
    "ToleratedFailurePercentage",
    "ToleratedFailurePercentagePath",
)
_EXECUTION_TYPES = ("STANDARD", "EXPRESS")
_MAX_LABEL = 40


def install() -> None:
    """Check definitions before ministack accepts them, once."""
    create, update = sfn._create_state_machine, sfn._update_state_machine
    definition_of = provisioners._sfn_definition

    def create_state_machine(request: dict[str, Any]) -> Any:
        return _refusal(request.get("definition", "{}")) or create(request)

    def update_state_machine(request: dict[str, Any]) -> Any:
        is_known = request.get("stateMachineArn") in sfn._state_machines
        refused = is_known and "definition" in request and _refusal(request["definition"])
        return refused or update(request)

    def definition_in_template(properties: dict[str, Any]) -> str:
        definition = str(definition_of(properties))
        if refused := _refusal(definition):
            raise provisioners._sfn_service_error(refused)
        return definition

    sfn._create_state_machine, sfn._update_state_machine = (
        create_state_machine,
        update_state_machine,
    )
    provisioners._sfn_definition = definition_in_template


def _refusal(text: str) -> Any:
    """Return the error response for a definition; None if nothing is wrong with it."""
    found = problem(text)
    if not found:
        return None
    return error_response_json(
        "InvalidDefinition", f"Invalid State Machine Definition: '{found}'", 400
    )


def problem(text: str) -> str:
    """Return the first thing that is wrong with a definition; empty if nothing is."""
    try:
        definition = json.loads(text)
    except ValueError as exc:
        return f"INVALID_JSON_DESCRIPTION: {exc}"
    return next(_problems(definition, ""), "")


def _problems(definition: Any, path: str) -> Iterator[str]:
    states = definition.get("States") if isinstance(definition, dict) else None
    if not isinstance(states, dict) or not states:
        yield f"SCHEMA_VALIDATION_FAILED: The States field must contain states at {path}/States"
        return
    if "StartAt" not in definition:
        yield f"SCHEMA_VALIDATION_FAILED: The field StartAt is required at {path or '/'}"
    elif definition["StartAt"] not in states:
        target = definition["StartAt"]
        yield f"MISSING_TRANSITION_TARGET: Missing 'StartAt' target: {target} at {path}/StartAt"
    for name, state in states.items():
        where = f"{path}/States/{name}"
        if not isinstance(state, dict) or state.get("Type") not in _TYPES:
            yield f"SCHEMA_VALIDATION_FAILED: The Type of a state must be known at {where}/Type"
            continue
        yield from _problems_of_targets(state, states, where)
        if state["Type"] == "Map":
            yield from _problems_of_map(state, where)
        for index, branch in enumerate(state.get("Branches", [])):
            yield from _problems(branch, f"{where}/Branches[{index}]")


def _problems_of_targets(
    state: Mapping[str, Any], states: Mapping[str, Any], where: str
) -> Iterator[str]:
    for field, target, place in _targets(state, where):
        if target not in states:
            yield f"MISSING_TRANSITION_TARGET: Missing '{field}' target: {target} at {place}"
    kind = state["Type"]
    if kind == "Choice":
        if not state.get("Choices"):
            yield f"SCHEMA_VALIDATION_FAILED: A Choice needs Choices at {where}/Choices"
    elif kind not in _LAST and "Next" not in state and state.get("End") is not True:
        yield f"MISSING_END_STATE: A state needs Next or End at {where}"


def _targets(state: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, str]]:
    for field in ("Next", "Default"):
        if field in state:
            yield field, state[field], f"{where}/{field}"
    for rules in ("Choices", "Catch"):
        for index, rule in enumerate(state.get(rules, [])):
            yield "Next", rule.get("Next"), f"{where}/{rules}[{index}]/Next"


def _problems_of_map(state: Mapping[str, Any], where: str) -> Iterator[str]:
    field = "ItemProcessor" if "ItemProcessor" in state else "Iterator"
    processor = state.get(field)
    if not isinstance(processor, dict):
        yield f"SCHEMA_VALIDATION_FAILED: A Map needs an ItemProcessor at {where}"
        return
    yield from _problems(processor, f"{where}/{field}")
    config = processor.get("ProcessorConfig") or {}
    if config.get("Mode", "INLINE") == "INLINE":
        for name in _ONLY_DISTRIBUTED:
            if name in state:
                yield (
                    f"SCHEMA_VALIDATION_FAILED: {name} is supported only in Distributed Maps at "
                    f"{where}/{name}"
                )
    elif config.get("Mode") != "DISTRIBUTED" or config.get("ExecutionType") not in _EXECUTION_TYPES:
        yield (
            "SCHEMA_VALIDATION_FAILED: A Distributed Map needs an ExecutionType at "
            f"{where}/{field}/ProcessorConfig"
        )
    if len(str(state.get("Label", ""))) > _MAX_LABEL:
        yield f"SCHEMA_VALIDATION_FAILED: A Label has at most 40 characters at {where}/Label"
