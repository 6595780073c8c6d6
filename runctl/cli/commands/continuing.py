"""The start of the next execution of a sweep or job that has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.model.errors import InvalidRequestError
from runctl.model.identity import continuation_name

if TYPE_CHECKING:
    from runctl.aws.workflow import StepFunctions
    from runctl.model.group import Group

_MAX_CONTINUATIONS = 50


def start_next_execution(workflow: StepFunctions, group: Group) -> tuple[str, str]:
    """Start the next execution of a group; a name is taken if one of that name was refused."""
    name = group.group_id
    _, _, last = group.execution.rpartition("-r")
    first = int(last) + 1 if group.execution != name and last.isdecimal() else 2
    for number in range(first, first + _MAX_CONTINUATIONS):
        execution = continuation_name(name, number)
        try:
            return execution, workflow.start_run(execution, {"group_id": name})
        except InvalidRequestError:
            if number == first + _MAX_CONTINUATIONS - 1:
                raise
    raise AssertionError("unreachable")
