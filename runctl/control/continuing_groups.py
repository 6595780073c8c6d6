"""The next execution of a group that has ended: a sweep, or a processing job."""

from collections.abc import Mapping
from typing import Any

from runctl.control.execution_start import ExecutionStart
from runctl.control.ports.services import Services
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem, RequestError
from runctl.model.group import Group
from runctl.model.outcome import RunStatus

ENDED_UNNOTICED = "its execution ended unnoticed"


def find_to_continue(
    services: Services, document: Mapping[str, Any], *, kind: str, noun: str
) -> Group:
    """Return the group that a request continues by its `group_id`."""
    group_id = document["group_id"]
    if others := sorted(str(name) for name in document if name != "group_id"):
        problem = f"not allowed with {', '.join(others)}; a {noun} keeps its request"
        raise InvalidRequestError((Problem("group_id", problem),))
    group = services.groups.find_group(group_id) if isinstance(group_id, str) else None
    if group is None or group.kind != kind:
        raise NotFoundError(f"there is no {noun} {group_id}")
    return group


def continue_group(
    services: Services, execution: ExecutionStart, group: Group, *, noun: str
) -> Group:
    """Give an ended group to an execution; a repeated call returns the same.

    Raises RequestError if another execution of it is running.
    """
    group_id = group.group_id
    if group.execution_arn == execution.arn:
        return group
    if group.ended is None:
        if services.workflow.is_running(group.execution_arn):
            raise RequestError(
                f"the {noun} {group_id} is running in the execution {group.execution}; stop it or "
                "wait for its end"
            )
        services.groups.end_group(
            group_id,
            status=RunStatus.FAILED,
            reason=ENDED_UNNOTICED,
            now=services.clock.now(),
            execution_arn=group.execution_arn,
        )
    return services.groups.resume_group(
        group_id, execution=execution.name, execution_arn=execution.arn
    )
