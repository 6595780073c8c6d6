"""The pages of the documentation name files and folders that exist."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
FOLDERS = "runctl|lambdas|stacks|instance_scripts|examples|bench|tests|docs"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_path_on_a_page_exists(page: Path):
    paths = set(PATH.findall(page.read_text()))
    assert [path for path in sorted(paths) if not (PROJECT / path).exists()] == []
