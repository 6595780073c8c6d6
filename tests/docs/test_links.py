"""The pages at the top of the repository link to files and headings that exist.

The links of the pages below docs are checked when the site is built.
"""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGES = sorted(PROJECT.glob("*.md"))
LINKS = [
    (page, link)
    for page in PAGES
    for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", page.read_text())))
    if not link.startswith("https://")
]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda each: getattr(each, "name", each))
def test_a_link_leads_to_an_existing_file_and_heading(page: Path, link: str):
    name, _, anchor = link.partition("#")
    target = PROJECT / name if name else page
    assert target.exists()
    assert not anchor or anchor in anchors_of(target)


def test_the_readme_leads_to_the_pages_that_people_look_for():
    linked = {link for page, link in LINKS if page.name == "README.md"}
    assert {
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/reference/cli.md",
        "docs/reference/guarantees.md",
        "docs/reference/limits.md",
        "docs/tutorial/first-run.md",
    } <= linked
