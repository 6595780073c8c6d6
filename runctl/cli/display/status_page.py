"""The page of `runctl status`: a run's program, its state and its attempts."""

import shlex
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runctl.cli.display.node_table import node_table
from runctl.cli.display.page_head import facts_table, heading
from runctl.cli.display.reasons import last_lines_text
from runctl.cli.display.styles import OUTCOME_STYLES
from runctl.model.outcome import OutcomeKind
from runctl.report.descriptions import (
    NOTHING,
    attempt_reason,
    checkpoint_text,
    failures_text,
    final_saves_text,
    image_text,
    inputs_text,
    machine_time_text,
    metrics_text,
    next_launch_text,
    result_text,
    saving_texts,
    service_text,
    shards_text,
    steps_text,
    took_text,
)
from runctl.report.gang_descriptions import nodes_text, reason_text
from runctl.report.reasons import brief
from runctl.report.run_document import RunDocument
from runctl.report.timeline import AttemptEntry
from runctl.report.wording import format_duration, format_instant

# From this width on, a table has room for a reason next to the rest.
_WIDE = 120
# Below this width there is no room for every column of the attempts.
_NARROW = 76


def status_page(run: RunDocument, *, width: int) -> RenderableType:
    """Return the page of a run."""
    reason = run.entry.reason
    parts: list[RenderableType] = [heading(run.run_id, run.status), _facts(run)]
    if run.timeline:
        parts += ["", _attempt_table(run.timeline, width=width)]
        if width < _WIDE:
            parts += [
                Text(f"attempt {attempt.number}: {reason_text(attempt)}", style="dim")
                for attempt in run.timeline
                if attempt.reason not in {"", reason}
            ]
    last = run.last_attempt
    if last is not None and last.nodes and last.kind is not OutcomeKind.COMPLETED:
        parts += ["", node_table(last.nodes, read_at=run.read_at, width=width)]
    if "\n" in reason:
        lines = last_lines_text(reason, width=width)
        parts += ["", Text("its last lines:", style="dim"), lines]
    parts += [Text(f"warning: {text}", style="yellow") for text in run.warnings]
    return Group(*parts)


def _facts(run: RunDocument) -> Table:
    entry, cost = run.entry, run.cost
    took = format_duration(run.took)
    lasting = f"{took} ago" if entry.ended_at is None else f"took {took}"
    last = run.last_attempt
    rows = [
        ("program", shlex.join(run.program)),
        ("group", entry.group),
        ("nodes", nodes_text(run.request)),
        ("started", f"{format_instant(entry.started_at)}, {lasting}"),
        ("reason", brief(entry.reason)),
        ("next launch", next_launch_text(run)),
        ("service", service_text(run)),
        ("shards", shards_text(run)),
        ("output", _output_of(run)),
        ("checkpoint", "" if run.shards else checkpoint_text(run)),
        *saving_texts(cost),
        ("inputs", inputs_text(last)),
        ("evaluates", run.evaluates),
        ("result", result_text(run.metrics)),
        ("metrics", "" if last is None else metrics_text(last.metrics)),
        ("machine time", machine_time_text(cost.machine_time)),
        ("interruptions", str(cost.interruptions or "")),
        ("failures", failures_text(cost)),
        ("final saves", final_saves_text(cost)),
        ("image", image_text(run.image)),
        ("versions", str(run.versions) if run.versions and run.versions.packages else ""),
    ]
    return facts_table(rows)


def _output_of(run: RunDocument) -> str:
    """Return the prefix for the results of a run that processes data."""
    return str(run.request.get("process", {}).get("output", ""))


def _attempt_table(attempts: Sequence[AttemptEntry], *, width: int) -> Table:
    wide, narrow = width >= _WIDE, width < _NARROW
    padding = (0, 1 if narrow else 2, 0, 0)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=padding)
    table.add_column("#", justify="right")
    table.add_column("pool", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("steps", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    if not narrow:
        table.add_column("notice", no_wrap=True)
    if wide:
        was_launched = any(attempt.is_launched for attempt in attempts)
        table.add_column("launched" if was_launched else "assigned", no_wrap=True)
        table.add_column("reason", overflow="fold")
    for attempt in attempts:
        style = "cyan" if attempt.kind is None else OUTCOME_STYLES[attempt.kind]
        cells: list[str | Text] = [
            str(attempt.number),
            attempt.pool or NOTHING,
            Text(attempt.state, style=style),
            steps_text(attempt),
            took_text(attempt),
        ]
        if not narrow:
            cells.append(_time(attempt.noticed_at))
        if wide:
            cells += [_time(attempt.launched_at), attempt_reason(attempt)]
        table.add_row(*cells)
    return table


def _time(instant: datetime | None) -> str:
    return NOTHING if instant is None else format_instant(instant)[11:19]
