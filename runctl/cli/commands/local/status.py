"""`runctl local status`: the state of the local cloud."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rich.table import Table

from runctl.cli.commands.local.local_cloud import (
    deployed_stacks,
    isolation_of,
    names_of,
    open_client,
    translated,
)
from runctl.cli.endpoint import find_local_cloud
from runctl.cli.invocation import Invocation
from runctl.model.identity import ATTEMPT_TAG, RUN_TAG
from runctl.report.wording import format_count, format_duration


def status(invocation: Invocation) -> None:
    """Show the local cloud's endpoint, deployed stacks and instances."""
    endpoint = find_local_cloud()
    client = open_client(endpoint)
    with translated():
        health, instances = client.health(), client.instances()
    began = datetime.fromtimestamp((endpoint.home / "endpoint.json").stat().st_mtime, timezone.utc)
    uptime = datetime.now(timezone.utc) - began
    live = [instance for instance in instances if instance["state"] != "terminated"]
    stacks = deployed_stacks(endpoint)
    invocation.local = True
    names = names_of(invocation.cloud.deployment) if stacks else {}
    document: dict[str, Any] = {
        "endpoint": endpoint.url,
        "home": str(endpoint.home),
        "pid": endpoint.pid,
        "uptime_seconds": round(uptime.total_seconds()),
        "health": health,
        "stacks": stacks,
        "names": names,
        "instances": live,
        "terminated": len(instances) - len(live),
    }
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("instance", "state", "pool", "run", "attempt"):
        table.add_column(heading, overflow="fold")
    for instance in live:
        tags = instance.get("tags", {})
        cells = (instance["instance_id"], instance["state"], instance.get("pool", ""))
        table.add_row(*cells, tags.get(RUN_TAG, ""), tags.get(ATTEMPT_TAG, ""))
    isolation = list(isolation_of(health))
    running = f"{endpoint.url}, running for {format_duration(uptime)} (process {endpoint.pid})"
    deployed = f"deployed: {', '.join(stacks)}" if stacks else "nothing is deployed"
    count = len(instances) - len(live)
    ended = f"{format_count(count, 'instance')} {'has' if count == 1 else 'have'} been terminated"
    named = [f"{name}={value}" for name, value in names.items()]
    invocation.output.result(
        document,
        running,
        deployed,
        *named,
        *isolation,
        table if live else "no instance is running",
        ended,
    )
