"""The head of a page: what it is about, its status, and the facts about it."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from runctl.cli.display.styles import STATUS_STYLES
from runctl.model.outcome import RunStatus


def heading(name: str, status: RunStatus) -> Text:
    """Return the line with a name and its status."""
    return Text.assemble((name, "bold"), "  ", (status.value, STATUS_STYLES[status]))


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Return the table of facts, each a label and a text; those without a text are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, text in facts:
        if text:
            table.add_row(label, text)
    return table
