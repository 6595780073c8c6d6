"""The reference page of all commands, made from what their help says."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from runctl.cli.display.help_page import help_sections
from runctl.cli.exit_codes import MEANINGS
from runctl.cli.invocation import PANEL
from runctl.cli.main import app

COMMANDS = """\
# Commands

`runctl` uses the deployment in your account and region, or, with `--local`, the
[local cloud](local-cloud.md). Once a run has started, it does not depend on the command: you can
interrupt it, close the terminal, or switch off the machine.

This page has the help of each command. See also what [`runctl aws train`](#runctl-aws-train)
[packs and checks](projects.md), its defaults in the [settings file](settings.md), the fields of the
[run request](run-request.md), and the [documents](documents.md) that `--json` prints.
"""

ABOUT = {
    PANEL: """\
These options can appear before or after the name of any command. A profile and a region take
precedence over `AWS_PROFILE` and `AWS_REGION`, which take precedence over the settings.

""",
}


def command_page() -> str:
    """Return the page of all commands, from what their help says."""
    root = get_command(app)
    context = root.context_class(root, info_name="runctl", **root.context_settings)
    sections = [COMMANDS]
    for heading, records in tables_of(root, context).items():
        title = "Options of runctl itself" if heading == "Options" else heading
        sections.append(f"\n## {title}\n\n{ABOUT.get(heading, '')}")
        sections += [f"| option | meaning |\n|---|---|\n{records}"]
    codes = "".join(f"| {code} | {text} |\n" for code, text in MEANINGS.items())
    sections.append(f"\n## Exit codes\n\n| exit code | meaning |\n|---|---|\n{codes}")
    for command, inner in commands_below(root, context):
        sections.append(command_section(command, inner))
    return "".join(sections)


def commands_below(group: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every command below a group with its context, those of a subgroup after each other."""
    for name, child in group.commands.items():
        command = getattr(child, "loaded", child)
        inner = command.context_class(command, parent=context, info_name=name)
        if hasattr(command, "commands"):
            yield from commands_below(command, inner)
        else:
            yield command, inner


def command_section(command: Any, context: Any) -> str:
    """Return the section of one command: what it does, its usage, arguments and options."""
    about = "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"\n## {context.command_path}\n\n{about}\n\n```text\n{usage}\n```\n"]
    for heading, records in tables_of(command, context).items():
        if heading != PANEL:
            term = "argument" if heading == "Arguments" else "option"
            title = "" if heading in {"Arguments", "Options"} else f"\n{heading}:\n"
            parts.append(f"{title}\n| {term} | meaning |\n|---|---|\n{records}")
    return "".join(parts)


def tables_of(command: Any, context: Any) -> dict[str, str]:
    """Return the table rows of a help page by their heading; `--help` is a global option."""
    tables: dict[str, str] = {}
    for heading, records in help_sections(command, context).items():
        rows = [f"| `{cell(term)}` | {cell(text)} |\n" for term, text in records]
        if heading == "Options" and context.parent is not None:
            # The terms depend on whether a command has been parsed before, as tests do.
            rows = [each for each in rows if not each.startswith(("| `-h, --help`", "| `--help`"))]
        if rows:
            tables[heading] = "".join(rows)
    return tables


def cell(text: str) -> str:
    """Return a text on one line, without what ends a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
