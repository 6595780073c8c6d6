"""The definitions of the state machines, and the functions and machines that they name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
# The state machine of a run. Every other definition is a parent's, which starts runs.
RUN = "train"
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def definition_names() -> list[str]:
    """Return the names of all definitions, that of a run first."""
    names = {path.name.removesuffix(".asl.yaml") for path in FOLDER.glob("*.asl.yaml")}
    return [RUN, *sorted(names - {RUN})]


def read_definition(name: str = RUN) -> dict[str, Any]:
    """Read a definition by its name."""
    return read_definition_file(FOLDER / f"{name}.asl.yaml")


def read_definition_file(path: Path) -> dict[str, Any]:
    """Read a definition from a file; CloudFormation and Step Functions accept only JSON."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def placeholders(definition: Mapping[str, Any]) -> set[str]:
    """Return the names of everything that a definition refers to."""
    return set(_PLACEHOLDER.findall(json.dumps(definition)))


def called_functions(definition: Mapping[str, Any]) -> set[str]:
    """Return the names of the functions that a definition calls."""
    named = (
        argument
        for _, state in all_states(definition)
        if isinstance(argument := state.get("Arguments", {}).get("FunctionName"), str)
    )
    return {name for argument in named for name in _PLACEHOLDER.findall(argument)}


def map_labels(definition: Mapping[str, Any]) -> list[str]:
    """Return the labels of the Distributed Maps, which the ARNs of their executions contain."""
    return [
        str(state["Label"])
        for _, state in all_states(definition)
        if state.get("ItemProcessor", {}).get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"
    ]


def all_states(definition: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each state with its name, those of a Map's processor and of branches included."""
    for name, state in definition["States"].items():
        yield name, state
        for inner in inner_definitions(state):
            yield from all_states(inner)


def inner_definitions(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the definitions that a Map or a Parallel contains."""
    processor = [state["ItemProcessor"]] if "ItemProcessor" in state else []
    return [*processor, *state.get("Branches", [])]


def rendered(definition: Mapping[str, Any], value_of: Callable[[str], str]) -> str:
    """Return the definition as JSON, with values for placeholders as CloudFormation fills them."""
    return _PLACEHOLDER.sub(lambda found: value_of(found[1]), json.dumps(definition))
