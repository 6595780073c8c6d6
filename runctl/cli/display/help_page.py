"""Help pages in plain text: to import Rich for them would take longer than everything else."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from runctl.cli.display.streams import write_rendered
from runctl.cli.option_types import with_plain_types

# On wider terminals, lines that are longer than this are hard to read.
WIDEST = 120

_HEADING = re.compile(r"(?:Usage(?=: )|[A-Z][\w ]*(?=:$))")
_TERM = re.compile(r"(?<=^  )\S.*?(?=  |$)")


def help_sections(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Return the names and texts of arguments and options by the heading of their panel."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            sections["Arguments"].append((_argument_name(parameter), record[1]))
        else:
            heading = getattr(parameter, "rich_help_panel", None) or "Options"
            sections.setdefault(heading, []).append(record)
    return sections


def _format_options(command: Any, context: Any, formatter: Any) -> None:
    """Write arguments and options under their headings."""
    for heading, records in help_sections(command, context).items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)


def _argument_name(argument: Any) -> str:
    """Return the name of an argument as a page shows it: RUN, or ARGS... for several."""
    several = "..." if argument.nargs == -1 else ""
    return argument.metavar or f"{argument.name.upper()}{several}"


def _usage_pieces(command: Any, context: Any) -> list[str]:
    """Return the words of the usage line after the command's name."""
    pieces = [command.options_metavar] if command.options_metavar else []
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument":
            name = _argument_name(parameter)
            is_bracketed = parameter.required or name.startswith("[")
            pieces.append(name if is_bracketed else f"[{name}]")
    return pieces


def _styled(option: Any) -> Any:
    """Return the help option, with a page that has colours on a terminal."""
    if option is not None:
        option.callback = _show_help
    return option


def _show_help(context: Any, _parameter: Any, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        page = f"{context.get_help()}\n"
        write_rendered(with_colours(page) if _has_colours() else page)
        context.exit()


def _has_colours() -> bool:
    """Whether stdout is a terminal that shows colours, and its user wants them."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def with_colours(page: str) -> str:
    """Return a help page with bold headings and coloured options, arguments and commands."""
    is_list = False
    lines = []
    for line in page.split("\n"):
        if heading := _HEADING.match(line):
            is_list = heading[0] != "Usage"
            styled = typer.style(heading[0], bold=True)
            lines.append(styled + line[heading.end() :])
        elif is_list:
            lines.append(_TERM.sub(lambda term: typer.style(term[0], fg="cyan"), line))
        else:
            lines.append(line)
    return "\n".join(lines)


class Command(TyperCommand):
    """A command whose help page is plain text."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, those that typer adds included."""
        return with_plain_types(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line after the command's name."""
        return _usage_pieces(self, ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        _format_options(self, ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option that shows the page."""
        return _styled(super().get_help_option(ctx))


class Group(TyperGroup):
    """A group of commands whose help page is plain text."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, those that typer adds included."""
        return with_plain_types(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write options and commands."""
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option that shows the page."""
        return _styled(super().get_help_option(ctx))
