"""The words about an attempt are those of its kind of run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from runctl.model.node import Node, NodeProgress, NodeStage
from runctl.model.run import Attempt, AttemptStage, Existing, Launched
from runctl.report.descriptions import attempt_text
from runctl.report.timeline import timeline_of
from tests.attempts import make_attempt

NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
POOL = "m5.large/us-east-1a/spot"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("train", f"trains on {POOL} from the beginning"),
        ("evaluate", f"evaluates on {POOL} from the beginning"),
        ("process", f"processes shards on {POOL}"),
        ("serve", f"starts its server on {POOL}"),
    ],
)
def test_a_program_that_has_just_been_started_is_described_by_its_kind(kind: str, text: str):
    node = Node(
        run_id="run",
        attempt=1,
        rank=0,
        stage=NodeStage.RUNNING,
        instance_id="i-a",
        pool=POOL,
        progress=NodeProgress(phase="train", timeline={"started": NOW}),
    )
    attempt = Attempt(run_id="run", number=1, stage=AttemptStage.RUNNING, nodes=(node,))
    (entry,) = timeline_of([attempt], now=NOW)
    assert attempt_text(entry, kind=kind) == text


@pytest.mark.parametrize(
    ("stage", "phase", "text", "state"),
    [
        (AttemptStage.LAUNCHED, "", "is assigned to i-a", "assigned"),
        (AttemptStage.LAUNCHED, "environment", f"prepares on {POOL}", "environment"),
        (AttemptStage.RUNNING, "environment", f"prepares on {POOL}", "environment"),
    ],
)
def test_an_attempt_on_an_existing_instance_is_not_launched(stage, phase, text, state):
    attempt = make_attempt(
        1, stage=stage, instance_id="i-a", pool=POOL, phase=phase, source=Existing("i-a")
    )
    (entry,) = timeline_of([attempt], now=NOW)
    assert (attempt_text(entry, kind="train"), entry.state) == (text, state)
    (entry,) = timeline_of([replace(attempt, source=Launched("{}"))], now=NOW)
    assert (attempt_text(entry, kind="train"), entry.state) == (
        f"prepares on {POOL}",
        phase or "booting",
    )
