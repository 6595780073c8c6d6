"""`runctl sweep list`: the sweeps, the newest first."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from runctl.cli.display.styles import STATUS_STYLES
from runctl.cli.invocation import Invocation
from runctl.model.outcome import RunStatus
from runctl.report.reasons import brief
from runctl.report.sweep_document import KIND
from runctl.report.wording import format_duration, instant_text


def list_sweeps(
    invocation: Invocation,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of sweeps.")] = 20,
) -> None:
    """List sweeps, the newest first."""
    groups = [group for group in invocation.cloud.groups.list_groups() if group.kind == KIND]
    now = datetime.now(timezone.utc)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("sweep", "status", "started", "reason"):
        table.add_column(heading, no_wrap=heading != "reason")
    entries = []
    for group in groups[:limit]:
        status = group.ended or RunStatus.RUNNING
        entries.append(
            {
                "sweep": group.group_id,
                "status": status.value,
                "reason": group.reason,
                "started_at": instant_text(group.started_at),
                "ended_at": instant_text(group.ended_at),
            }
        )
        table.add_row(
            group.group_id,
            Text(status.value, style=STATUS_STYLES[status]),
            f"{format_duration(now - group.started_at)} ago",
            brief(group.reason),
        )
    invocation.output.result(
        {"sweeps": entries}, table if entries else Text("no sweeps yet", style="dim")
    )
