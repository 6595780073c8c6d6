"""The page of guarantees: each of them names existing tests."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "reference" / "guarantees.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def names_of(path: Path) -> set[str]:
    """Return the names of a file's tests, including assigned ones (state machines)."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if name.lower().startswith("test")}


def guarantees() -> list[str]:
    """Return the rows of the page's tables."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| guarantee |")]


def test_the_page_lists_guarantees():
    assert len(guarantees()) > 30


@pytest.mark.parametrize("guarantee", guarantees(), ids=lambda row: row[2:50])
def test_a_guarantee_names_tests_that_exist(guarantee: str):
    named = NAMED.findall(guarantee)
    assert named, "no test is named"
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (PROJECT / path).exists() or name not in names_of(PROJECT / path)
    ]
    assert missing == []
