"""Each promise of the reference names tests that there are."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "reference" / "guarantees.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def names_of(path: Path) -> set[str]:
    """Return the names of a file's tests, those that are assigned (state machines) too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return {name for name in names if name.lower().startswith("test")}


def promises() -> list[str]:
    """Return the rows of the page's tables."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| promise |")]


def test_the_page_has_promises():
    assert len(promises()) > 30


@pytest.mark.parametrize("promise", promises(), ids=lambda row: row[2:50])
def test_a_promise_is_held_by_tests_that_there_are(promise: str):
    named = NAMED.findall(promise)
    assert named, "no test is named"
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (PROJECT / path).exists() or name not in names_of(PROJECT / path)
    ]
    assert missing == []
