"""The replicas of a service: runs of their own, with names of their own, behind one name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.identity import RUN_ID, RUN_ID_RULE
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runctl.cli.commands.aws.job import Job

# A replica that may use fewer types is interrupted too often.
MIN_TYPES = 3


def replica_name(service: str, number: int) -> str:
    """Return the name of one replica's run, numbered from 1."""
    return f"{service}-{number}"


def replicas_of(job: Job) -> tuple[Job, ...]:
    """Return the jobs of all replicas; a service without replicas is its own only one.

    Where there are enough instance types, each replica gets others, and with them other pools: a
    shortage of one then takes one replica. An existing instance is that of the first.
    """
    count = job.request.get("serve", {}).get("replicas", 1)
    if count == 1:
        return (job,)
    if not RUN_ID.fullmatch(replica_name(job.name, count)):
        message = f"the names of its replicas, such as {replica_name(job.name, count)}, are not "
        raise InvalidRequestError((Problem("--name", f"{message}{RUN_ID_RULE}"),))
    types = list(job.request.get("instance_types", DEFAULT_INSTANCE_TYPES))
    jobs = []
    for number in range(1, count + 1):
        request: dict[str, Any] = dict(job.request)
        if number > 1:
            request.pop("instance_id", None)
        if len(types) >= count * MIN_TYPES:
            request["instance_types"] = types[number - 1 :: count]
        jobs.append(replace(job, name=replica_name(job.name, number), request=request))
    return tuple(jobs)


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last
