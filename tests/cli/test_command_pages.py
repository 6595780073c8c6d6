"""The pages about commands and settings are complete and name nothing else."""

import re
from pathlib import Path

from typer.main import get_command

from runctl.cli import exit_codes
from runctl.cli.main import app
from runctl.cli.project.settings import (
    AWS_SETTINGS,
    PROJECT_SETTINGS,
    REQUEST_SETTINGS,
    parse_settings,
)

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
COMMANDS = (REFERENCE / "cli.md").read_text()
SHARED = COMMANDS.partition("\n## Global options\n")[2].partition("\n## ")[0]
SETTINGS = (REFERENCE / "settings.md").read_text()


def walk(command, path=()):
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command.loaded
        return
    for name, child in children.items():
        yield from walk(child, (*path, name))


def test_every_command_and_each_of_its_options_is_on_the_page():
    found = list(walk(get_command(app), ("runctl",)))
    assert len(found) > 10
    for path, command in found:
        _, heading, rest = COMMANDS.partition(f"\n## {' '.join(path)}\n")
        assert heading, path
        section = rest.partition("\n## ")[0] + SHARED
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or option in section, (path, option)


def test_every_exit_code_is_on_the_page():
    codes = {value for value in vars(exit_codes).values() if isinstance(value, int)}
    assert codes == set(exit_codes.MEANINGS)
    expected = [int(code) for code in re.findall(r"(?m)^\| (\d+) \|", COMMANDS)]
    assert sorted(expected) == sorted(codes)


def test_the_settings_on_the_page_are_valid_and_complete(tmp_path):
    example = SETTINGS.split("```toml\n")[1].split("```")[0]
    (tmp_path / ".runctl.toml").write_text(example)
    settings = parse_settings(tmp_path / ".runctl.toml")
    assert set(settings.request) == set(REQUEST_SETTINGS)
    for name in (*AWS_SETTINGS, *PROJECT_SETTINGS):
        assert f"\n{name} = " in example
