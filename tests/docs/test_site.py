"""The documentation site builds without a warning and loads nothing from another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site that the configuration describes."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(PROJECT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """Collects what a browser loads in order to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get(LOADED.get(tag, ""))
        if address and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(address)


def test_every_page_of_the_docs_is_in_the_site(site: Path):
    pages = [page.relative_to(PROJECT / "docs") for page in (PROJECT / "docs").rglob("*.md")]
    expected = {
        page.parent if page.stem in ("index", "README") else page.with_suffix("") for page in pages
    }
    assert len(expected) > 30
    assert expected <= {page.parent.relative_to(site) for page in site.rglob("index.html")}


def test_no_page_loads_anything_from_another_host(site: Path):
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.addresses
        assert [each for each in loads.addresses if re.match(r"(https?:)?//", each)] == []


def test_a_link_to_a_heading_that_does_not_exist_fails_the_build(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Title\n\n[gone](#nowhere)\n")
    settings = (PROJECT / "mkdocs.yml").read_text()
    rules = settings[settings.index("validation:") : settings.index("nav:\n  - Home")]
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"site_name: test\n{rules}")
    done = build(config, tmp_path / "site")
    assert done.returncode == 1
    assert "#nowhere" in done.stderr
