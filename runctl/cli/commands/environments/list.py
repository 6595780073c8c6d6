"""`runctl environments list`: the stored environments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from runctl.cli.invocation import Invocation
from runctl.report.environment_list import read_environments
from runctl.report.wording import format_instant, format_size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runctl.report.environment_list import EnvironmentEntry, EnvironmentList

_NAMED_RUNS = 2
_COLUMNS = ("environment", "packages", "python", "size", "last used", "runs", "declared in")


def list_environments(invocation: Invocation) -> None:
    """List the stored environments, the most recently used first.

    They share what they have in common, so together they need less space than the sum of their
    sizes. Environments that no run uses are removed after some time.
    """
    found = read_environments(invocation.cloud.environment_catalog)
    invocation.output.result(found.as_document(), *_page(found))


def _page(found: EnvironmentList) -> list[RenderableType]:
    if not found.entries:
        rest = [f"parts that nothing names: {found.cost}"] if found.stored_bytes else []
        return ["no environments are stored", *rest]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in _COLUMNS:
        table.add_column(heading, overflow="fold")
    for entry in found.entries:
        table.add_row(*_row(entry))
    return [table, found.cost]


def _row(entry: EnvironmentEntry) -> list[str]:
    stored = entry.stored
    contents = (
        ["", "not offered to new runs", ""]
        if stored is None
        else [
            str(len(stored.packages)),
            f"{stored.python} {stored.platform}",
            format_size(stored.size_bytes),
        ]
    )
    more = len(entry.runs) - _NAMED_RUNS
    runs = ", ".join(entry.runs[:_NAMED_RUNS]) + (f" and {more} more" if more > 0 else "")
    source = "" if stored is None else stored.source
    return [entry.short, *contents, format_instant(entry.last_used), runs, source]
