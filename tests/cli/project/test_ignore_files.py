"""Ignore files exclude exactly what git excludes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.cli.project.ignore import Rules, parse_rule

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")

CASES = {
    "a negation brings a file back": "*.log\n!keep.log\n",
    "a folder that is left out is never entered": "data/\n!data/keep.txt\n",
    "a pattern with a slash counts from its own folder": "src/a.py\n",
    "a leading slash means this folder only": "/a.py\n",
    "a trailing slash means folders only": "a.py/\nsrc/\n",
    "two stars span folders": "**/deep/*.txt\n",
    "two stars at the end are everything inside": "src/**\n",
    "two stars in the middle may be nothing": "src/**/a.py\n",
    "a star stops at a slash": "src/*.txt\n",
    "brackets": "[ab].py\n[!k]eep.log\n",
    "escaped characters": "\\#note\n\\!bang\nspace\\ \n",
    "comments, empty lines, trailing spaces, CRLF": "# x\n\n*.log  \nsrc/\r\n",
    "all but some": "*\n!*/\n!*.py\n",
}
FILES = (
    "a.py", "b.py", "keep.log", "x.log", "#note", "!bang", "space ", "data/keep.txt",
    "data/big.bin", "src/a.py", "src/x.txt", "src/deep/a.py", "src/deep/x.txt",
    "src/deep/deeper/x.txt",
)  # fmt: skip


def plant(top: Path, files=FILES) -> None:
    for name in files:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("")


def kept(top: Path, folder: str = "", rules: Rules | None = None) -> set[str]:
    rules = (rules or Rules()).entering(top, folder)
    found = set()
    for entry in os.scandir(top / folder):
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.name == ".git" or rules.leaving_out(path, is_folder=entry.is_dir()):
            continue
        found |= kept(top, path, rules) if entry.is_dir() else {path}
    return found


def kept_by_git(top: Path) -> set[str]:
    command = ["git", "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]
    listed = subprocess.run(command, cwd=top, capture_output=True, text=True, check=True).stdout
    return set(listed.split("\0")) - {""}


@needs_git
@pytest.mark.parametrize("rules", CASES.values(), ids=CASES.keys())
def test_a_rule_matches_as_in_git(tmp_path, rules):
    plant(tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_bytes(rules.encode())
    assert kept(tmp_path) == kept_by_git(tmp_path)


@needs_git
def test_a_nested_file_takes_precedence_in_its_folder(tmp_path):
    plant(tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("*.txt\n")
    (tmp_path / "src/deep/.gitignore").write_text("!x.txt\n/deeper/\n")
    assert kept(tmp_path) == kept_by_git(tmp_path)
    assert "src/deep/x.txt" in kept(tmp_path)
    assert "src/x.txt" not in kept(tmp_path)


words = st.sampled_from(
    ["a", "b", "src", "deep", "*", "**", "?", "/", "**/", "/**", "[ab]", "[!a]", ".py", ".txt", "x",
     "[b-a]", "[[:alpha:]]", "***", "\\a", "[]x]"]
)  # fmt: skip
lines = st.builds(
    lambda bang, parts, slash: f"{'!' * bang}{''.join(parts)}{'/' * slash}",
    st.booleans(),
    st.lists(words, min_size=1, max_size=4),
    st.booleans(),
)


@needs_git
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(outer=st.lists(lines, max_size=4), inner=st.lists(lines, max_size=3))
def test_any_rules_match_as_in_git(tmp_path, outer, inner):
    if not (tmp_path / ".git").exists():
        plant(tmp_path)
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("\n".join(outer))
    (tmp_path / "src/.gitignore").write_text("\n".join(inner))
    assert kept(tmp_path) == kept_by_git(tmp_path)


def test_runctlignore_takes_precedence_over_gitignore(tmp_path):
    plant(tmp_path)
    (tmp_path / "src/.gitignore").write_text("x.txt\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / ".runctlignore").write_text("!src/x.txt\ndata/\n")
    found = kept(tmp_path)
    assert "src/x.txt" in found
    assert "keep.log" not in found
    assert not any(path.startswith("data/") for path in found)


def test_a_rule_has_its_file_and_line():
    assert parse_rule("*.log", source=".gitignore:3").source == ".gitignore:3"
