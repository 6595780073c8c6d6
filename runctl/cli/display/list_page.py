"""The page of `runctl list`."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runctl.cli.display.styles import STATUS_STYLES
from runctl.model.kinds import TRAIN
from runctl.report.descriptions import NOTHING, checkpoint_name, short_name
from runctl.report.run_list import RunEntry
from runctl.report.wording import format_duration, format_instant

# The maximum widths in a list: of the columns that are always there except the name, of those that
# a wide list adds, and of the pool.
_OTHER_COLUMNS = 46
_MORE_COLUMNS = 34
_POOL_COLUMN = 36
# The column of the kinds, in a list that has other runs than those that train.
_KIND_COLUMN = 13


def list_page(entries: Sequence[RunEntry], *, now: datetime, width: int) -> RenderableType:
    """Return a list of runs, one per line; names too long for the width get their own lines."""
    room = width - max((len(entry.run_id) for entry in entries), default=0) - _OTHER_COLUMNS
    has_kinds = any(entry.kind != TRAIN for entry in entries) and room >= _KIND_COLUMN
    room -= _KIND_COLUMN if has_kinds else 0
    if room < 0:
        return Group(*(_list_entry(entry, now=now) for entry in entries))
    wide, widest = room >= _MORE_COLUMNS, room >= _MORE_COLUMNS + _POOL_COLUMN
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("run", *(("kind",) if has_kinds else ()), "status"):
        table.add_column(heading, no_wrap=True)
    for heading in ("step", "attempt", *(("interruptions",) if wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in (*(("pool",) if widest else ()), "started", *(("took",) if wide else ())):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        cells: list[str | Text] = [
            entry.run_id,
            *((entry.kind,) if has_kinds else ()),
            Text(entry.status.value, style=STATUS_STYLES[entry.status]),
            short_name(entry.step, entry.save) if entry.has_checkpoint else NOTHING,
            str(entry.attempt or NOTHING),
        ]
        if wide:
            cells.append(str(entry.interruptions or NOTHING))
            cells += [entry.pool or NOTHING] if widest else []
            cells.append(format_instant(entry.started_at))
            cells.append(format_duration((entry.ended_at or now) - entry.started_at))
        else:
            cells.append(f"{format_duration(now - entry.started_at)} ago")
        table.add_row(*cells)
    return table


def _list_entry(entry: RunEntry, *, now: datetime) -> Text:
    parts = [] if entry.kind == TRAIN else [entry.kind]
    parts += [name] if (name := checkpoint_name(entry)) else []
    parts += [f"attempt {entry.attempt}"] if entry.attempt else []
    parts.append(f"{format_duration(now - entry.started_at)} ago")
    return Text.assemble(
        (entry.run_id, ""),
        "\n  ",
        (entry.status.value, STATUS_STYLES[entry.status]),
        f" · {' · '.join(parts)}",
        overflow="ignore",
        no_wrap=True,
    )
