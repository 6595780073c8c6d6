"""Hooks for mkdocs: pages from the top of the repository, and the list of ADRs."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = Path(__file__).parents[1]
# GitHub looks for these at the top of the repository.
PAGES_AT_TOP = ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every architecture decision at the end of the navigation's last section."""
    records = sorted(Path(config.docs_dir, "adr").glob("[0-9]*.md"))
    pages = ["adr/README.md", *(f"adr/{record.name}" for record in records)]
    last = (config.nav or [])[-1]
    last["Explanation"].append({"Decisions": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from the top of the repository, with their links as seen from docs/."""
    for name in PAGES_AT_TOP:
        text = (TOP / name).read_text().replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to the pages from the top of the repository at their place in the site."""
    for name in PAGES_AT_TOP:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
        markdown = markdown.replace(f"](../../{name}", f"](../{name}")
    return markdown
