"""Start-up: help and completion import no command, no SDK and no Rich."""

import inspect
import os
import subprocess
import sys

import pytest
from typer.main import get_command

from runctl.cli.command_table import DeferredCommand
from runctl.cli.display.help_page import with_colours
from runctl.cli.main import app

# Each of these would double the time that a help page takes.
HEAVY = ("boto3", "botocore", "pydantic", "rich", "aws_cdk", "ministack", "hypercorn")
OURS = ("runctl.agent", "runctl.aws", "runctl.checkpoint", "runctl.control", "runctl.local")


# The program as it is; when it ends, it prints what it has imported.
PROGRAM = (
    "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    "from runctl.cli.main import main; main()"
)


def run(*words, **variables):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        check=False,
    )


def imported_by(done):
    return set(done.stderr.split())


def deferred(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        if isinstance(child, DeferredCommand):
            yield (*path, name), child
        else:
            yield from deferred(child, (*path, name))


COMMANDS = dict(deferred(get_command(app)))


@pytest.mark.parametrize("words", [(), ("aws",), ("checkpoints",), ("environments",), ("local",)])
def test_help_imports_no_command_no_sdk_and_no_cloud(words):
    done = run(*words, "--help")
    assert done.returncode == 0
    assert "Commands:" in done.stdout
    imported = imported_by(done)
    assert not imported & {*HEAVY, *OURS}
    assert not [name for name in imported if name.startswith("runctl.cli.commands.")]


def test_version_imports_no_rich():
    done = run("--version")
    assert done.stdout.startswith("runctl ")
    assert not imported_by(done) & {*HEAVY, *OURS}


def test_help_of_train_imports_no_sdk_and_no_display():
    done = run("aws", "train", "--help")
    assert "--max-attempts N" in done.stdout
    assert not imported_by(done) & {*HEAVY, *OURS}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["aws", "train", "--max-attempts", "x", "a.py"], "'--max-attempts': 'x' is not a whole"),
        (["aws", "create", "--keep-alive", "x"], "'--keep-alive': 'x' is not a number"),
    ],
)
def test_value_of_the_wrong_type_is_refused(words, message):
    done = run(*words)
    assert done.returncode == 2
    assert f"error: Invalid value for {message}" in done.stderr


@pytest.mark.parametrize("word", ["maybe", "2"])
def test_invalid_boolean_in_the_environment_is_refused(word):
    done = run("list", RUNCTL_LOCAL=word)
    assert done.returncode == 2
    assert f"{word!r} is not a boolean" in done.stderr


def test_command_is_imported_when_it_is_chosen():
    imported = imported_by(run("init", "--help"))
    assert "runctl.cli.commands.init" in imported
    assert not imported & set(HEAVY)


def test_every_command_is_listed_with_the_first_paragraph_of_its_help():
    assert len(COMMANDS) > 20
    for path, command in COMMANDS.items():
        first = inspect.cleandoc(command.loaded.help).split("\n\n")[0]
        assert command.short_help == " ".join(first.split()), path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["runctl", ""], {"aws", "list", "local", "checkpoints", "doctor"}),
        (["runctl", "aws", "cr"], {"create"}),
        (["runctl", "checkpoints", ""], {"list", "pull", "push", "prune"}),
        (["runctl", "aws", "create", "--keep"], {"--keep-alive"}),
    ],
)
def test_shell_completes_commands_and_options(words, expected):
    done = run(
        COMP_WORDS=" ".join(words),
        COMP_CWORD=str(len(words) - 1),
        _RUNCTL_COMPLETE="complete_bash",
    )
    assert expected <= set(done.stdout.split())
    # A command's own options are in its module.
    assert "boto3" not in imported_by(done) or words[-1].startswith("--")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_page_fits_the_terminal_and_uses_its_width(width):
    for words in [(), ("aws", "train"), ("local",)]:
        page = run(*words, "--help", COLUMNS=str(width)).stdout
        longest = max(map(len, page.splitlines()))
        assert longest <= width
        assert longest > width - 20 or words == ("local",)


def test_help_page_lists_global_options_apart(runctl):
    page = runctl("aws", "create", "--help").stdout
    own, shared = page.split("Global options:")
    assert "--keep-alive HOURS" in own
    assert "--json" not in own
    assert "--json" in shared


def test_help_page_on_a_terminal_has_coloured_headings_and_terms():
    page = "Usage: runctl x\n\n  Text: of a page.\n\nOptions:\n  --a N  First.\n         Second.\n"
    assert with_colours(page) == (
        "\x1b[1mUsage\x1b[0m: runctl x\n\n  Text: of a page.\n\n\x1b[1mOptions\x1b[0m:\n"
        "  \x1b[36m--a N\x1b[0m  First.\n         Second.\n"
    )
