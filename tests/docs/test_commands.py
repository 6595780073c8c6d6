"""Every command that a page shows exists, with the options that the page gives it."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
from typer.main import get_command

from runctl.cli.main import app

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"]
PAGES += sorted((PROJECT / "docs").rglob("*.md"))


def commands_of(page: Path) -> list[str]:
    """Return the lines that run `runctl`, each in one piece, and the commands within sentences."""
    joined = re.sub(r"\\\n\s*", "", page.read_text())
    lines = re.findall(r"^\$ (?:\w+=\$\()?(runctl .+?)\)?$", joined, re.MULTILINE)
    return lines + re.findall(r"`(runctl [^`…\[]+?)`", joined)


def words_of(line: str) -> list[str]:
    """Split a line as a shell does, up to a comment, a pipe or a redirection."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|>&;")
    words.whitespace_split = True
    return list(takewhile(lambda word: not set(word) <= set("|>&;"), words))


SHOWN = [
    (page.relative_to(PROJECT).as_posix(), line) for page in PAGES for line in commands_of(page)
]


def resolve(words: list[str]):
    """Return the command that the words name, and the words after its name."""
    command = get_command(app)
    while words and words[0] in ("--local", "--json"):
        words = words[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    # `runctl checkpoints RUN` is short for `runctl checkpoints list RUN`.
    if command.name == "checkpoints" and words:
        command = command.commands["list"]
    return getattr(command, "loaded", command), words


def test_the_pages_show_commands():
    assert len(SHOWN) > 60
    assert {"README.md", "docs/how-to/first-account.md", "docs/tutorial/first-run.md"} <= {
        page for page, _ in SHOWN
    }


def test_programs_of_the_examples_do_not_run_in_the_image_of_the_checkout():
    """The checkout has a Dockerfile, so a run of the whole checkout would build that."""
    lines = [words_of(line) for _, line in SHOWN]
    assert sum({"--project", "examples"} <= set(words) for words in lines) > 2
    programs = [word for words in lines for word in words if word.endswith(".py")]
    assert [program for program in programs if program.startswith("examples/")] == []


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_exists_with_its_options(page: str, line: str):
    command, words = resolve(words_of(line)[1:])
    if hasattr(command, "commands"):  # a group, or `runctl --version`
        assert all(word.startswith("-") for word in words), f"{page}: {line} names no command"
    # It raises NoSuchOption, and stops where the arguments of the user's own program begin.
    context = command.context_class(command, **command.context_settings)
    command.make_parser(context).parse_args(words)
