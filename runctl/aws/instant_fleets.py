"""Instant fleets in EC2, which does not list them: how they are found and deleted."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.identity import ATTEMPT_TAG, RUN_TAG
from runctl.model.leftovers import InstantFleet

# DeleteFleets accepts 25 instant fleets; with more it deletes none.
MAX_FLEETS_PER_DELETE = 25
MAX_FLEETS_PER_DESCRIBE = 100
GONE_ALREADY = frozenset({"fleetIdDoesNotExist", "fleetNotInDeletableState"})


def find_fleets(client: Any, *, templates: Collection[str]) -> list[InstantFleet]:
    """Return the fleets that have a run's tag and launch from one of `templates`.

    DescribeFleets returns an instant fleet only by its id, and has no filter by tag; DescribeTags
    returns the ids. Deployments share the tag, but never the launch templates. Both calls are
    eventually consistent: a later reconciliation finds a fleet that is missing.
    """
    if not templates:
        return []
    ids = iter(sorted(_tagged(client)))
    found: list[InstantFleet] = []
    while batch := list(itertools.islice(ids, MAX_FLEETS_PER_DESCRIBE)):
        found += [
            _fleet(fleet)
            for fleet in _described(client, batch)
            if _templates_of(fleet) & set(templates)
        ]
    return found


def _tagged(client: Any) -> Iterator[str]:
    filters = [
        {"Name": "resource-type", "Values": ["fleet"]},
        {"Name": "key", "Values": [RUN_TAG]},
    ]
    with translated():
        for page in client.get_paginator("describe_tags").paginate(Filters=filters):
            yield from (str(tag["ResourceId"]) for tag in page["Tags"])


def _described(client: Any, ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    with translated():
        try:
            yield from list(_pages(client, ids))
        except ClientError as exc:
            # A tag may outlive its fleet, and one unknown id fails the whole call.
            if not code_of(exc).startswith("InvalidFleet"):
                raise
            if len(ids) > 1:
                for fleet_id in ids:
                    yield from _described(client, [fleet_id])


def _pages(client: Any, ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for page in client.get_paginator("describe_fleets").paginate(FleetIds=list(ids)):
        yield from page["Fleets"]


def _templates_of(fleet: Mapping[str, Any]) -> set[str]:
    return {
        config.get("LaunchTemplateSpecification", {}).get("LaunchTemplateId", "")
        for config in fleet.get("LaunchTemplateConfigs", [])
    }


def _fleet(fleet: Mapping[str, Any]) -> InstantFleet:
    tags = {tag["Key"]: tag["Value"] for tag in fleet.get("Tags", [])}
    number = tags.get(ATTEMPT_TAG, "")
    return InstantFleet(
        fleet_id=fleet["FleetId"],
        run_id=tags.get(RUN_TAG, ""),
        attempt=int(number) if number.isdecimal() else None,
        state=fleet["FleetState"],
        created_at=fleet.get("CreateTime"),
        instance_ids=tuple(
            instance_id
            for group in fleet.get("Instances", [])
            for instance_id in group.get("InstanceIds", [])
        ),
    )


def delete_fleets(client: Any, fleet_ids: Iterable[str]) -> dict[str, str]:
    """Delete instant fleets; return the reason for each that was not deleted.

    A fleet that is already gone is not an error. Deleting an instant fleet always terminates its
    instances, so the caller makes sure that it has none. Throttling is retried inside, then raises
    TransientError. A lost answer does no harm, because the next call finds the fleet deleted.
    """
    ids = iter(fleet_ids)
    refused: dict[str, str] = {}
    while batch := list(itertools.islice(ids, MAX_FLEETS_PER_DELETE)):
        with translated():
            answer = client.delete_fleets(FleetIds=batch, TerminateInstances=True)
        for failed in answer.get("UnsuccessfulFleetDeletions", []):
            error = failed.get("Error", {})
            if error.get("Code") not in GONE_ALREADY:
                refused[failed["FleetId"]] = f"{error.get('Message', '')} ({error.get('Code', '')})"
    return refused
