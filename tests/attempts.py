"""Attempts with one node, as tests need them."""

from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from runctl.model.agent_ledger import AgentLedger
from runctl.model.node import Node, NodeId, NodeProgress
from runctl.model.run import Attempt, AttemptStage

PROGRESS = {field.name for field in fields(NodeProgress)}
NODE = {"pool", "heartbeat_at", "noticed_at"}


def make_attempt(number: int = 1, *, instance_id: str = "", **values: Any) -> Attempt:
    """Return an attempt with one node; `values` are of the attempt, the node or its progress."""
    attempt = Attempt(
        run_id=values.pop("run_id", "run-1"),
        number=number,
        stage=values.pop("stage", AttemptStage.RUNNING),
    )
    node = Node(run_id=attempt.run_id, attempt=number, instance_id=instance_id)
    return change(replace(attempt, nodes=(node,)), **values)


def change(attempt: Attempt, **values: Any) -> Attempt:
    """Return the attempt with other values, of itself, its first node or what that reports."""
    first, *others = attempt.nodes
    progress = {name: values.pop(name) for name in PROGRESS & values.keys()}
    node = {name: values.pop(name) for name in NODE & values.keys()}
    changed = replace(first, progress=replace(first.progress, **progress), **node)
    return replace(attempt, nodes=(changed, *others), **values)


def report(ledger: AgentLedger, run_id: str, number: int, *, now: datetime, **values: Any) -> None:
    """Record the progress of an attempt's first node."""
    ledger.record_progress(NodeId(run_id, number, 0), NodeProgress(**values), now=now)
