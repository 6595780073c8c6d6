"""The pages of guarantees and of attacks: each row names existing tests."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
GUARANTEES = PROJECT / "docs/reference/guarantees.md"
SECURITY = PROJECT / "docs/explanation/security.md"
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
    rows = [line for line in GUARANTEES.read_text().splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| guarantee |")]


def findings() -> list[str]:
    """Return the rows of the findings of reviews, which are numbered."""
    return re.findall(r"^\| S\d+: .*$", SECURITY.read_text(), re.MULTILINE)


def test_the_pages_list_guarantees_and_findings():
    assert len(guarantees()) > 30
    numbers = [int(row[3 : row.index(":")]) for row in findings()]
    assert numbers == list(range(1, 18))


@pytest.mark.parametrize("row", [*guarantees(), *findings()], ids=lambda row: row[2:50])
def test_a_row_names_tests_that_exist(row: str):
    named = NAMED.findall(row)
    assert named, "no test is named"
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (PROJECT / path).exists() or name not in names_of(PROJECT / path)
    ]
    assert missing == []
