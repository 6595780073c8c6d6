"""The security policy leads to pages and headings that there are, and is found from the README."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "SECURITY.md"
LINKS = re.findall(r"\]\(([^)]+)\)", PAGE.read_text())


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_what_it_links_to_exists(link):
    name, _, anchor = link.partition("#")
    page = PROJECT / name if name else PAGE
    assert page.exists()
    assert not anchor or anchor in anchors_of(page)


def test_it_is_linked_from_the_readme():
    assert "(SECURITY.md)" in (PROJECT / "README.md").read_text()


def test_every_attacker_has_an_answer():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 5
    assert all(re.search(r"defended|not:|kept from", row.split("|")[4]) for row in rows)
