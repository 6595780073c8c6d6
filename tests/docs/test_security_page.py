"""The security policy: its links lead to existing places, and the README links to it."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "SECURITY.md"
LINKS = re.findall(r"\]\(([^)]+)\)", PAGE.read_text())


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_every_link_leads_to_an_existing_page_and_heading(link):
    name, _, anchor = link.partition("#")
    page = PROJECT / name if name else PAGE
    assert page.exists()
    assert not anchor or anchor in anchors_of(page)


def test_the_readme_links_to_it():
    assert "(SECURITY.md)" in (PROJECT / "README.md").read_text()


def test_every_attacker_has_an_answer():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 5
    assert all(re.search(r"defended|not:|kept from", row.split("|")[4]) for row in rows)
