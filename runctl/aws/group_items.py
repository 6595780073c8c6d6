"""Items of groups and of their warm instances in DynamoDB."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from runctl.aws.attributes import Item, document_of, instant_of, text_of, whole_number_of
from runctl.model.group import KEEP_SECONDS, Group, WarmInstance, WarmStage
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus

LISTED = "group"  # in the indexes that list runs as `run`
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)


def group_item(group: Group) -> Item:
    """Return the attributes of a new group's item.

    `run_id` is the sort key of the index of what is unsettled.
    """
    return {
        "listed": LISTED,
        "unsettled": LISTED,
        "run_id": group.group_id,
        "group_id": group.group_id,
        "kind": group.kind,
        "request": json.dumps(dict(group.request), sort_keys=True),
        "execution": group.execution,
        "execution_arn": group.execution_arn,
        "started_at": text_of(group.started_at),
        "keep_seconds": group.keep_seconds,
    }


def read_group(item: Mapping[str, Any]) -> Group:
    """Read a group from its item's plain values, whichever version wrote them; never raises."""
    return Group(
        group_id=str(item.get("group_id", "")),
        kind=str(item.get("kind", "")),
        request=document_of(item, "request"),
        execution=str(item.get("execution", "")),
        execution_arn=str(item.get("execution_arn", "")),
        started_at=instant_of(item, "started_at") or _LONG_AGO,
        ended=_status(item["ended"]) if "ended" in item else None,
        ended_at=instant_of(item, "ended_at"),
        reason=str(item.get("reason", "")),
        stop_requested=bool(item.get("stop_requested")),
        is_settled="unsettled" not in item,
        keep_seconds=whole_number_of(item, "keep_seconds") or KEEP_SECONDS,
    )


def read_warm(item: Mapping[str, Any]) -> WarmInstance:
    """Read a warm instance; in a stage that this version does not know it may not be claimed."""
    try:
        stage = WarmStage(item.get("stage"))
    except ValueError:
        stage = WarmStage.LEFT
    return WarmInstance(
        group_id=str(item.get("group_id", "")),
        instance_id=str(item.get("instance_id", "")),
        node=NodeId(
            str(item.get("run_id", "")),
            whole_number_of(item, "number") or 0,
            whole_number_of(item, "rank") or 0,
        ),
        stage=stage,
        pool=str(item.get("pool", "")),
        disk_bytes=whole_number_of(item, "disk_bytes") or 0,
        since=instant_of(item, "since"),
        left_at=instant_of(item, "left_at"),
        waited=timedelta(seconds=whole_number_of(item, "waited_seconds") or 0),
        keep_seconds=whole_number_of(item, "keep_seconds") or KEEP_SECONDS,
    )


def _status(text: Any) -> RunStatus:
    try:
        return RunStatus(text)
    except ValueError:
        return RunStatus.UNKNOWN
