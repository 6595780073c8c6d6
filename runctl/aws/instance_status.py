"""The status of instances: EC2's checks, and the maintenance that it has scheduled."""

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.machine import MachineStatus
from runctl.model.maintenance import ScheduledEvent

MAX_IDS = 100
CHECKS = {
    "SystemStatus": "system",
    "InstanceStatus": "instance",
    "AttachedEbsStatus": "attached EBS",
}
UNKNOWN_ID = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
# A past event is described for up to a week.
PAST = ("[Completed]", "[Canceled]")


def describe_statuses(client: Any, instance_ids: Sequence[str]) -> list[MachineStatus]:
    """Return the statuses of the running instances among these, as far as EC2 knows them."""
    ids = iter(instance_ids)
    statuses: list[MachineStatus] = []
    while batch := list(itertools.islice(ids, MAX_IDS)):
        statuses += map(_status, _ask(client, batch))
    return statuses


def _ask(client: Any, instance_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Ask for some instances; there is no filter by id, and an unknown id fails the whole call."""
    with translated():
        try:
            # With ids the answer has one page.
            answer = client.describe_instance_status(InstanceIds=list(instance_ids))
        except ClientError as exc:
            if code_of(exc) not in UNKNOWN_ID:
                raise
        else:
            return list(answer.get("InstanceStatuses", ()))
    if len(instance_ids) == 1:
        return []
    middle = len(instance_ids) // 2
    return _ask(client, instance_ids[:middle]) + _ask(client, instance_ids[middle:])


def _status(answer: Mapping[str, Any]) -> MachineStatus:
    return MachineStatus(
        instance_id=answer["InstanceId"],
        impaired={
            check: _impaired_since(answer[field])
            for field, check in CHECKS.items()
            # `insufficient-data` and `initializing` say that nothing is known yet.
            if answer.get(field, {}).get("Status") == "impaired"
        },
        events=tuple(
            ScheduledEvent(
                event_id=event.get("InstanceEventId", ""),
                code=event.get("Code", ""),
                not_before=event.get("NotBefore"),
            )
            for event in answer.get("Events", ())
            if not event.get("Description", "").startswith(PAST)
        ),
    )


def _impaired_since(summary: Mapping[str, Any]) -> datetime | None:
    since = [
        details["ImpairedSince"]
        for details in summary.get("Details", ())
        if "ImpairedSince" in details
    ]
    return min(since, default=None)
