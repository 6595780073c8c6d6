"""The table of the nodes of a gang, on the page of `runctl status`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.table import Table
from rich.text import Text

from runctl.model.outcome import OutcomeKind
from runctl.report.descriptions import NOTHING
from runctl.report.nodes import NodeEntry
from runctl.report.wording import format_duration, format_instant, format_short_duration

# From this width on, there is room for the pool of each node.
_WIDE = 120


def node_table(nodes: Sequence[NodeEntry], *, read_at: datetime, width: int) -> Table:
    """Return the table of the nodes of an attempt."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("node", justify="right")
    table.add_column("instance", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("computed", justify="right", no_wrap=True)
    table.add_column("heartbeat", justify="right", no_wrap=True)
    table.add_column("notice", no_wrap=True)
    if width >= _WIDE:
        table.add_column("pool", overflow="fold")
    for node in nodes:
        cells: list[str | Text] = [
            str(node.rank),
            node.instance_id or NOTHING,
            Text(node.state, style=_style(node)),
            NOTHING if node.step is None else str(node.step),
            NOTHING
            if node.busy_seconds is None
            else format_short_duration(timedelta(seconds=node.busy_seconds)),
            _age(node.heartbeat_at, read_at),
            NOTHING if node.noticed_at is None else format_instant(node.noticed_at)[11:19],
        ]
        table.add_row(*cells, *([node.pool or NOTHING] if width >= _WIDE else []))
    return table


def _style(node: NodeEntry) -> str:
    has_failed = node.ended is not None and node.ended.outcome.kind is OutcomeKind.FAILED
    if node.is_lost or node.state == "gone" or has_failed:
        return "red"
    return "yellow" if node.noticed_at is not None or node.warning else "cyan"


def _age(heartbeat_at: datetime | None, read_at: datetime) -> str:
    return NOTHING if heartbeat_at is None else f"{format_duration(read_at - heartbeat_at)} ago"
