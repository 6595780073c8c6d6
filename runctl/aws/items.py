"""How runs and attempts are written down in DynamoDB, and read back."""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from runctl.model.outcome import Outcome, RunStatus
from runctl.model.request_parsing import parse_request
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.model.saving import Saving

Item = dict[str, Any]

_serializer, _deserializer = TypeSerializer(), TypeDeserializer()


def pack(values: Mapping[str, Any]) -> Item:
    """Return values in DynamoDB's typed form."""
    return {name: _serializer.serialize(value) for name, value in values.items()}


def unpack(item: Mapping[str, Any]) -> Item:
    """Return plain values from DynamoDB's typed form."""
    return {name: _deserializer.deserialize(value) for name, value in item.items()}


def text_of(instant: datetime) -> str:
    """Write an instant so that texts sort as the instants do."""
    return instant.astimezone(timezone.utc).isoformat(timespec="microseconds")


def run_item(run: Run) -> Item:
    """Return the attributes of a run's item; None is left out, so that it can be conditioned on."""
    item = {
        "listed": "run",
        "unsettled": None if run.is_settled else "run",
        "run_id": run.run_id,
        "request": json.dumps(run.request.as_document(), sort_keys=True),
        "started_at": text_of(run.started_at),
        "execution": run.execution,
        "execution_arn": run.execution_arn,
        "executions": run.executions,
        "first_attempt": run.first_attempt,
        "ancestors": list(run.ancestors),
        "fence": run.fence,
        "step": run.step,
        "newest": run.newest,
        "committed_at": None if run.committed_at is None else text_of(run.committed_at),
        "ended": None if run.ended is None else run.ended.value,
        "ended_at": None if run.ended_at is None else text_of(run.ended_at),
        "reason": run.reason or None,
        "told_end": None if run.told_end is None else text_of(run.told_end),
    }
    return {name: value for name, value in item.items() if value is not None}


def read_run(item: Mapping[str, Any]) -> Run:
    """Read a run from its item's plain values."""
    return Run(
        run_id=item["run_id"],
        request=parse_request(json.loads(item["request"])),
        started_at=datetime.fromisoformat(item["started_at"]),
        execution=item["execution"],
        execution_arn=item["execution_arn"],
        executions=int(item["executions"]),
        first_attempt=int(item.get("first_attempt", 1)),
        ancestors=tuple(item.get("ancestors", ())),
        fence=int(item["fence"]),
        step=_whole(item, "step"),
        newest=item.get("newest"),
        committed_at=_instant(item, "committed_at"),
        ended=RunStatus(item["ended"]) if "ended" in item else None,
        ended_at=_instant(item, "ended_at"),
        reason=item.get("reason", ""),
        told_end=_instant(item, "told_end"),
    )


def read_attempt(item: Mapping[str, Any]) -> Attempt:
    """Read an attempt from its item's plain values."""
    return Attempt(
        run_id=item["run_id"],
        number=int(item["number"]),
        stage=AttemptStage(item["stage"]),
        launch_try=int(item["launch_try"]),
        fleet_request=item["fleet_request"],
        instance_ids=tuple(item.get("instance_ids", ())),
        pool=item.get("pool", ""),
        token=item.get("token", ""),
        launched_at=_instant(item, "launched_at"),
        training_at=_instant(item, "training_at"),
        heartbeat_at=_instant(item, "heartbeat_at"),
        noticed_at=_instant(item, "noticed_at"),
        ended_at=_instant(item, "ended_at"),
        phase=item.get("phase", ""),
        resume_step=_whole(item, "resume_step"),
        progress_step=_whole(item, "progress_step"),
        metrics=json.loads(item.get("metrics", "{}")),
        timeline={
            name: datetime.fromisoformat(text) for name, text in item.get("timeline", {}).items()
        },
        saving=Saving.from_document(json.loads(item["saving"])) if "saving" in item else None,
        warning=item.get("warning", ""),
        ended=Outcome.from_document(json.loads(item["ended"])) if "ended" in item else None,
    )


def _instant(item: Mapping[str, Any], name: str) -> datetime | None:
    return datetime.fromisoformat(item[name]) if name in item else None


def _whole(item: Mapping[str, Any], name: str) -> int | None:
    return int(item[name]) if name in item else None
