"""What the definition of a state machine reads, checked against the results of the functions."""

from __future__ import annotations

import importlib
import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from runctl import control
from runctl.control.results import Result, RunResult, TrainReport
from stacks.workflows.definition import all_states

_INPUT = re.compile(r"\$states\.input\.(\w+)")
_RESULT = re.compile(r"\$states\.result\.(?:Payload\.)?(\w+)")
_FUNCTION = re.compile(r"\$\{(\w+)\}")
_EXISTS = re.compile(r"\{% \$exists\(\$states\.input\.(\w+)\) %\}")
_KEY_IS_TRUE = re.compile(r"\{% \$states\.input\.(\w+) %\}")
_ENVELOPE = frozenset({"Payload", "Output"})


@dataclass(frozen=True)
class Shape:
    """The keys of a document; `constants` are those with the same value in every document.

    A document that `is_any` may have every key, such as an item that a Map reads from S3.
    """

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    constants: frozenset[tuple[str, bool]] = frozenset()
    is_any: bool = False

    @classmethod
    def of(cls, result: type[Result]) -> Shape:
        """Return the shape of a result's documents."""
        required = result.required_keys()
        names = {field.name: field.default for field in fields(result)}
        constants = {(name, value) for name, value in names.items() if isinstance(value, bool)}
        return cls(required, frozenset(names) - required, frozenset(constants))

    def problem_with(self, key: str, expression: str, source: str) -> str:
        """Return why an expression may not read a key; empty if it may."""
        if key in self.required or self.is_any:
            return ""
        if key not in self.optional:
            return f"{source}.{key} does not exist"
        is_guarded = f"$exists($states.{source}.{key})" in expression
        return "" if is_guarded else f"{source}.{key} may be missing, and is read without $exists"


ANY = Shape(is_any=True)
Shapes = Mapping[str, Sequence[Shape]]


@dataclass(frozen=True)
class Entry:
    """How a state may be entered: the shape of its input, and the variables assigned so far."""

    shape: Shape
    variables: frozenset[str] = frozenset()


def shapes_of_functions(functions: Sequence[str]) -> dict[str, list[Shape]]:
    """Return the shapes of what functions return, from the annotations in `runctl.control`.

    The result of Train is the report that completes its task.
    """
    modules = {
        module.name.rpartition(".")[2]: module.name
        for module in pkgutil.walk_packages(control.__path__, "runctl.control.")
        if not module.ispkg
    }
    shapes = {}
    for name in functions:
        function = getattr(importlib.import_module(modules[name]), name)
        returned = typing.get_type_hints(function)["return"]
        is_union = isinstance(returned, types.UnionType)
        kinds = typing.get_args(returned) if is_union else [returned]
        shapes[name] = [Shape.of(TrainReport if name == "train" else kind) for kind in kinds]
    return shapes


def problems(definition: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Return every read of a key or variable that may not exist; walks all ways through."""
    assigned = frozenset(name for _, state in all_states(definition) for name in _names(state))
    return list(_problems(definition, shapes, assigned, Entry(Shape())))


def _problems(
    definition: Mapping[str, Any], shapes: Shapes, assigned: frozenset[str], start: Entry
) -> dict[str, None]:
    waiting = [(definition["StartAt"], start)]
    seen: set[tuple[str, Entry]] = set()
    found: dict[str, None] = {}
    while waiting:
        name, entry = waiting.pop()
        if (name, entry) in seen:
            continue
        seen.add((name, entry))
        state = definition["States"][name]
        results = _results(state, shapes)
        bad = _bad_reads(state, entry, results, assigned)
        found |= {f"{name}: {text}": None for text in bad if text}
        if processor := state.get("ItemProcessor"):
            found |= _problems(processor, shapes, assigned, _item(state, entry))
        waiting += _followers(state, entry, results)
    return found


def _names(state: Mapping[str, Any]) -> Iterator[str]:
    for rule in [state, *state.get("Catch", [])]:
        yield from rule.get("Assign", {})


def _item(state: Mapping[str, Any], entry: Entry) -> Entry:
    """Return how the processor of a Map is entered; a child of a Distributed Map has no variables.

    A batch has its items as `Items`, next to the batcher's own input.
    """
    is_child = state["ItemProcessor"].get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"
    selected = state.get("ItemSelector")
    shape = Shape(frozenset(selected)) if isinstance(selected, Mapping) else ANY
    if batcher := state.get("ItemBatcher"):
        shape = Shape(frozenset({"Items", *(["BatchInput"] if "BatchInput" in batcher else [])}))
    return Entry(shape, frozenset() if is_child else entry.variables)


def _results(state: Mapping[str, Any], shapes: Shapes) -> Sequence[Shape]:
    if "ResultWriter" in state:
        return [Shape(frozenset({"MapRunArn", "ResultWriterDetails"}))]
    if state["Type"] in ("Map", "Parallel"):
        return [ANY]
    if "startExecution" in state.get("Resource", ""):
        return [Shape.of(RunResult)]
    if state["Type"] != "Task":
        return [Shape()]
    if "codebuild" in state["Resource"]:
        return [Shape(frozenset({"Build"}))]
    return shapes[_FUNCTION.fullmatch(state["Arguments"]["FunctionName"])[1]]


def _bad_reads(
    state: Mapping[str, Any], entry: Entry, results: Sequence[Shape], assigned: frozenset[str]
) -> Iterator[str]:
    own = {key: value for key, value in state.items() if key not in ("Catch", "ItemProcessor")}
    yield from _bad_reads_of(own, entry, results, assigned)
    for rule in state.get("Catch", []):
        yield from _bad_reads_of(rule, entry, results, assigned)


def _bad_reads_of(
    part: Any, entry: Entry, results: Sequence[Shape], assigned: frozenset[str]
) -> Iterator[str]:
    for expression in _expressions(part):
        for key in _INPUT.findall(expression):
            yield entry.shape.problem_with(key, expression, "input")
        for key in set(_RESULT.findall(expression)) - _ENVELOPE:
            for shape in results:
                yield shape.problem_with(key, expression, "result")
        for name in assigned - entry.variables:
            is_read = re.search(rf"\${name}\b(?!\()", expression)
            if is_read and f"${name} :=" not in expression:
                yield f"the variable {name} may not be assigned"


def _expressions(part: Any) -> Iterator[str]:
    if isinstance(part, str) and part.startswith("{%"):
        yield part
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _expressions(value)
    elif isinstance(part, list):
        for value in part:
            yield from _expressions(value)


def _followers(
    state: Mapping[str, Any], entry: Entry, results: Sequence[Shape]
) -> Iterator[tuple[str, Entry]]:
    for rule in state.get("Catch", []):
        output = _output(rule, entry.shape, [Shape(frozenset({"Error", "Cause"}))])
        yield from _to(rule["Next"], output, entry, rule)
    rest: Shape | None = entry.shape
    for choice in state.get("Choices", []):
        taken, rest = _narrow(entry.shape, rest, choice["Condition"])
        if taken is not None:
            yield from _to(choice["Next"], [taken], entry, choice)
    if "Default" in state and rest is not None:
        yield from _to(state["Default"], [rest], entry, state)
    if "Next" in state:
        has_result = state["Type"] in ("Task", "Map", "Parallel")
        default = results if has_result else [entry.shape]
        yield from _to(state["Next"], _output(state, entry.shape, default), entry, state)


def _narrow(shape: Shape, rest: Shape | None, condition: str) -> tuple[Shape | None, Shape | None]:
    """Return the input for which a condition may hold, and what is left for the others."""
    if found := _EXISTS.fullmatch(condition):
        key = found[1]
        if shape.is_any:
            return shape, rest
        if key in shape.required | shape.optional:
            return replace(shape, required=shape.required | {key}), rest
        return None, rest
    if found := _KEY_IS_TRUE.fullmatch(condition):
        if (found[1], True) in shape.constants:
            return shape, None
        if (found[1], False) in shape.constants:
            return None, rest
    return shape, rest


def _output(rule: Mapping[str, Any], given: Shape, default: Sequence[Shape]) -> Sequence[Shape]:
    output = rule.get("Output")
    if isinstance(output, Mapping):
        return [Shape(frozenset(output))]
    return [given] if output == "{% $states.input %}" else default


def _to(
    name: str, shapes: Sequence[Shape], entry: Entry, rule: Mapping[str, Any]
) -> Iterator[tuple[str, Entry]]:
    for shape in shapes:
        yield name, Entry(shape, entry.variables | frozenset(rule.get("Assign", {})))
