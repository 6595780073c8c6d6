"""Suggested commands reach the cloud that the user works on, also those in others' words."""

import ast
import io
import json
import re
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from runctl.cli.command_table import COMMANDS
from runctl.cli.display.console import PrintableConsole
from runctl.cli.display.following import PlainDisplay
from runctl.cli.display.output import Output
from runctl.cli.display.suggestions import for_local
from runctl.model.errors import InvalidRequestError, Problem, RequestError

SOURCES = Path(__file__).parents[3]
HINT, LOCAL_HINT = "see `runctl status lm`", "see `runctl --local status lm`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deploy it, then `runctl resume lm`", "deploy it, then `runctl --local resume lm`"),
        ("next: `runctl aws train SCRIPT`", "next: `runctl --local aws train SCRIPT`"),
        ("`runctl stop a` or `runctl list`", "`runctl --local stop a` or `runctl --local list`"),
        ("is too old; run `runctl deploy`", "is too old; run `runctl local up`"),
    ],
)
def test_a_suggested_command_reaches_the_local_cloud(text, expected):
    assert for_local(text) == expected
    assert for_local(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "start it with `runctl local up`",
        "stopped by `runctl stop`",
        "the container image `runctl`, which `docker build --tag runctl .` makes",
        "see `runctl aws train --help`",
        "`runctl status lm --local`",
        "this is an evaluation: runctl reads --checkpoint",
    ],
)
def test_everything_else_stays_as_it_is(text):
    assert for_local(text) == text


@pytest.mark.parametrize("is_local", [True, False])
def test_whatever_a_command_prints_is_completed(capsys, is_local):
    output = Output(is_local=is_local)
    output.note(HINT, style="dim")
    output.fail(RequestError(HINT))
    output.fail(InvalidRequestError((Problem("RUN", HINT),)))
    output.result({}, HINT)
    output.result({}, Text(HINT, style="dim"), HINT)
    shown = capsys.readouterr()
    hint = LOCAL_HINT if is_local else HINT
    assert shown.err.splitlines() == [hint, f"error: {hint}", f"error: RUN: {hint}"]
    assert shown.out.splitlines() == [hint] * 3


def test_an_error_document_suggests_the_same(capsys):
    Output(is_local=True, as_json=True).fail(InvalidRequestError((Problem("RUN", HINT),)))
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["problems"] == [{"field": "RUN", "message": LOCAL_HINT}]
    assert error["message"] == f"RUN: {LOCAL_HINT}"


def test_a_cell_is_completed_before_it_is_fitted_and_keeps_its_colours():
    stream = io.StringIO()
    console = PrintableConsole(file=stream, width=22, is_local=lambda: True)
    table = Table(box=None, pad_edge=False)
    table.add_column("reason", overflow="fold")
    table.add_row(HINT)
    console.print(table)
    assert stream.getvalue().split() == ["reason", *LOCAL_HINT.split()]
    text = Text.assemble(("see ", "dim"), ("`runctl status lm`", "bold"), (" now", "red"))
    console.width = 80
    segments = [(part.text, str(part.style)) for part in console.render(text) if part.text.strip()]
    assert ("".join(shown for shown, _ in segments)) == f"{LOCAL_HINT} now"
    assert segments[-1] == (" now", "red")


def test_a_line_of_the_program_is_printed_as_it_is():
    stream = io.StringIO()
    display = PlainDisplay(PrintableConsole(file=stream, width=80, is_local=lambda: True))
    display.log(HINT)
    display.announce(f"attempt 1 failed: {HINT}")
    assert stream.getvalue() == f"{HINT}\n── attempt 1 failed: {LOCAL_HINT}\n"


def test_every_message_that_names_a_command_quotes_it():
    names = "|".join(command.name for command in COMMANDS if command.name != "local")
    bare = re.compile(rf"(?<![`\w.-])runctl (?:--\w+ )?(?:{names})\b(?!:)")
    found = [
        f"{path.relative_to(SOURCES)}: {text}"
        for folder in ("runctl", "lambdas")
        for path in sorted((SOURCES / folder).rglob("*.py"))
        for text in _messages(path)
        if bare.search(text)
    ]
    assert found == []


def _messages(path: Path) -> list[str]:
    """Return the texts of a module that are not documentation of it, f-strings with gaps."""
    tree = ast.parse(path.read_text())
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    documented = {id(node.value) for node in statements if isinstance(node.value, ast.Constant)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documented
    ]
