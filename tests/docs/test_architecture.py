"""The architecture page: the places it names exist, and its glossary covers the ledger."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.model.decision import DecisionKind
from runctl.model.node import Node, NodeStage
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.run import Attempt, AttemptStage, Run
from stacks.workflows.definition import read_definition

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/ARCHITECTURE.md").read_text()
STEPS, GLOSSARY = PAGE.split("## Glossary")
CODE = re.compile(r"`([^`\n]+)`")
ROOTS = ("runctl/", "lambdas/", "stacks/", "instance_scripts/")


def paths() -> list[str]:
    """Return the files and folders that the page names."""
    return sorted({text for text in CODE.findall(PAGE) if text.startswith(ROOTS)})


def stored_words() -> Iterator[str]:
    """Yield what the ledger holds: attributes of its items, and the values of their enums."""
    for stored in (Run, Attempt):
        yield from (field.name for field in dataclasses.fields(stored))
    # What a node reports is in the glossary under the word of its display.
    yield from {field.name for field in dataclasses.fields(Node)} - {"attempt", "progress"}
    for kind in (RunStatus, AttemptStage, NodeStage, OutcomeKind, DecisionKind):
        yield from (member.value for member in kind)


def phases() -> set[str]:
    """Return the phases that the agent reports."""
    code = "".join(path.read_text() for path in (PROJECT / "runctl/agent").rglob("*.py"))
    return set(re.findall(r"progress\.enter\(\"(\w+)\"\)", code))


def test_the_page_names_places():
    assert len(paths()) > 20


@pytest.mark.parametrize("path", paths())
def test_a_place_exists(path: str):
    assert (PROJECT / path).exists()


@pytest.mark.parametrize(
    ("name", "path"), re.findall(r"`(\w+)`\s+in\s+`(runctl/[\w/]+\.py)`", PAGE)
)
def test_a_name_is_defined_in_its_place(name: str, path: str):
    assert re.search(rf"^(class|def) {name}\b", (PROJECT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("word", sorted(set(stored_words())))
def test_the_glossary_contains_a_word_of_the_ledger(word: str):
    assert word in CODE.findall(GLOSSARY)


def test_the_glossary_contains_the_phases_of_the_agent():
    assert len(phases()) > 5
    assert phases() <= set(CODE.findall(GLOSSARY))


def test_the_steps_name_every_function_of_the_state_machine():
    states = read_definition()["States"]
    tasks = {name for name, state in states.items() if state["Type"] == "Task"}
    assert {name for name in tasks if name not in STEPS} == set()
