"""Every write of an agent to the ledger names only attributes that its session may write."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from runctl.aws.items import run_item
from runctl.aws.ledger import DynamoLedger
from runctl.aws.table import serialize
from runctl.local.core.item_conditions import conditions_of
from runctl.model.image import Image
from runctl.model.node import NodeId, NodeProgress
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.model.saving import Saving
from runctl.model.service import Service
from runctl.model.shard_progress import ShardProgress
from runctl.model.staging import Staging

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
NODE = NodeId("a", 3, 0)
RUN = Run(
    run_id="a",
    request=RunRequest.from_stored({"command": ["train"]}),
    started_at=NOW,
    execution="a",
    execution_arn="arn",
    fence=3,
    pins=frozenset({"a runs/b/x"}),
)


class Recorder:
    """A client whose table has the run, and that notes what each write names."""

    def __init__(self) -> None:
        self.named: set[str] = set()

    def get_item(self, **_: Any) -> dict[str, Any]:
        return {"Item": serialize({"pk": "RUN#a", "sk": "RUN", **run_item(RUN)})}

    def update_item(self, **request: Any) -> dict[str, Any]:
        body = json.dumps(request, default=sorted).encode()
        self.named |= set(conditions_of(body)["dynamodb:Attributes"])
        return self.get_item() | {"Attributes": self.get_item()["Item"]}


PROGRESS = NodeProgress(
    phase="train", resume_step=1, resume_save=1, step=2, metrics={"loss": 1.0},
    not_finite=frozenset({"x"}), timeline={"booted": NOW}, environment_bytes=1, warning="w",
    saving=Saving.from_document({}), staging=Staging.from_document({}),
    service=Service.from_document({}), shards=ShardProgress.from_document({"total": 1}),
)  # fmt: skip


def test_an_agent_writes_what_its_session_permits() -> None:
    from stacks.run_roles import PIN_ATTRIBUTES, WRITABLE_ATTRIBUTES

    client = Recorder()
    ledger = DynamoLedger(client, "table")
    ledger.record_image("a", Image(reference="x"))
    ledger.record_notice(NODE, now=NOW)
    ledger.record_progress(NODE, PROGRESS, now=NOW)
    for step in (None, 5):
        ledger.commit_checkpoint(
            "a", 3, step=step, save=1, manifest="m", progressed=True, now=NOW, size_bytes=1
        )
    ledger.mark_suspect("a", 3, "m")
    ledger.clear_suspects("a", 3, ["m"])
    ledger.mark_proven("a", 3, "m")
    ledger.record_evaluated("a", 3, save=1, metrics={"x": 1})
    ledger.record_mlflow_run("a", 3, "m")
    ledger.record_metrics("a", 3, {"x": 1})
    assert client.named <= set(WRITABLE_ATTRIBUTES)
    assert {"newest", "suspects", "heartbeat_at", "timeline", "metrics"} <= client.named
    client.named.clear()
    ledger.pin_checkpoint("a", "m", by="b")
    ledger.remove_pins("a", by="a")
    assert client.named == set(PIN_ATTRIBUTES)


@pytest.mark.parametrize("name", ["request", "ended", "execution_arn", "ended_at", "pins"])
def test_what_decides_about_permissions_is_not_writable(name: str) -> None:
    from stacks.run_roles import WRITABLE_ATTRIBUTES

    assert name not in WRITABLE_ATTRIBUTES
