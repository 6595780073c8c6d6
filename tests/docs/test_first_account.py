"""The guide to a first account: its commands, options and tags exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from runctl.cli.main import app
from runctl.model.identity import DEPLOYMENT_TAG, RUN_TAG

GUIDE = (Path(__file__).parents[2] / "docs/how-to/first-account.md").read_text()
JOINED = re.sub(r"\\\n\s*", "", GUIDE)
COMMANDS = sorted(set(re.findall(r"(?:^\$ |`)(runctl [^`\n]+)", JOINED, re.MULTILINE)))


def resolve(words: list[str]):
    """Return the command that `words` name, and the words after its name."""
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    # `runctl checkpoints RUN` is short for `runctl checkpoints list RUN`.
    if command.name == "checkpoints" and words:
        command = command.commands["list"]
    return command, words


def test_the_guide_contains_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_guide_exists_with_its_options(line: str):
    command, words = resolve(shlex.split(line)[1:])
    assert not hasattr(command, "commands"), f"{line} names a group of commands"
    known = {option for parameter in command.params for option in parameter.opts}
    own = [word for word in words if word.startswith("-")]
    assert set(own) <= known, line


def test_the_experiment_selects_the_instance_by_the_tags_of_runs():
    assert f'"{RUN_TAG}": "my-first"' in GUIDE
    assert f'"{DEPLOYMENT_TAG}": "runctl"' in GUIDE


def test_files_named_in_the_guide_exist():
    for script in re.findall(r"examples/[\w/]+\.py", GUIDE):
        assert (Path(__file__).parents[2] / script).exists()
