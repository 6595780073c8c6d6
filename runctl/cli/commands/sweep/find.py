"""The lookup of a sweep by its name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.model.errors import NotFoundError
from runctl.report.sweep_document import KIND

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.group import Group

SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="The sweep's name.")]


def find_sweep(cloud: Cloud, name: str) -> Group:
    """Return the group of a sweep; raises NotFoundError with similar names if there is none."""
    found = cloud.groups.find_group(name)
    if found is not None and found.kind == KIND:
        return found
    if found is not None:
        raise NotFoundError(
            f"{name} is a job of several runs, not a sweep; see `runctl status {name}`"
        )
    if cloud.deployment.sweep_machine_arn:
        workflow = cloud.sweep_workflow
        execution = workflow.find_execution(workflow.execution_arn(name))
        if execution is not None and execution.is_running:
            raise NotFoundError(f"{name} has only just started; try again in a few seconds")
        if execution is not None and execution.cause:
            raise NotFoundError(f"{name} never began: {execution.cause}")
    known = [group.group_id for group in cloud.groups.list_groups() if group.kind == KIND]
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "see `runctl sweep list`"
    raise NotFoundError(f"sweep {name!r} does not exist; {hint}")
