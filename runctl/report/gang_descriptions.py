"""Descriptions of gangs in words, for any display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runctl.report.reasons import brief
from runctl.report.timeline import AttemptEntry


def place_text(attempt: AttemptEntry) -> str:
    """Return where an attempt is, with a space before it; empty while that is not known."""
    if not attempt.nodes:
        return f" on {attempt.pool}" if attempt.pool else ""
    spares = sum(node.is_spare for node in attempt.nodes)
    parts = [_count(len(attempt.nodes) - spares, "node")]
    parts += [_count(spares, "spare")] if spares else []
    pool = f" in {attempt.pool}" if attempt.pool else ""
    return f" on {' and '.join(parts)}{pool}"


def request_text(attempt: AttemptEntry) -> str:
    """Describe which machines an attempt requests, and why."""
    if not (attempt.nodes or attempt.kept):
        return _with_plan("requests an instance", attempt.plan)
    # The plan of a gang begins with the number of machines.
    requests = f"requests {attempt.plan or _count(attempt.requested, 'instance')}"
    if not attempt.kept:
        return requests
    kept = f"keeps {_count(attempt.kept, 'instance')}"
    return f"{kept} and {requests}" if attempt.requested else _with_plan(kept, attempt.plan)


def _with_plan(text: str, plan: str) -> str:
    return f"{text}: {plan}" if plan else text


def notice_text(attempt: AttemptEntry) -> str:
    """Describe an interruption notice of an attempt that drains."""
    noticed = [str(node.rank) for node in attempt.nodes if node.noticed_at is not None]
    whose = f" for node {', '.join(noticed)}" if noticed else ""
    return f"has an interruption notice{whose}{place_text(attempt)} and drains"


def reason_text(attempt: AttemptEntry) -> str:
    """Return why an attempt ended in one line, which names the nodes that it lost."""
    reason = brief(attempt.reason)
    lost = [node for node in attempt.nodes if node.is_lost and node.instance_id not in reason]
    if not lost:
        return reason
    names = ", ".join(f"node {node.rank} on {node.instance_id or 'no instance'}" for node in lost)
    return f"{reason} (lost: {names})" if reason else f"lost: {names}"


def nodes_text(request: Mapping[str, Any]) -> str:
    """Describe how many nodes a run has, with the limits; empty for a run on one machine."""
    nodes, fewest = _whole(request.get("nodes")), _whole(request.get("min_nodes"))
    if nodes < 2:
        return ""
    parts = [f"{nodes}, at least {fewest}" if fewest else str(nodes)]
    spares, processes = _whole(request.get("spares")), _whole(request.get("processes_per_node"))
    parts += [f"and {_count(spares, 'spare')}"] if spares else []
    parts += [f"with {_count(processes, 'process')} each"] if processes else []
    return " ".join(parts)


def _whole(value: Any) -> int:
    return value if type(value) is int else 0


def _count(number: int, noun: str) -> str:
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else ending}"
