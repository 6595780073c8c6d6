"""The lookup of a run by its name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.model.errors import NotFoundError
from runctl.report.sweep_document import KIND as SWEEP

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.run import Run


RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]


def find_run(cloud: Cloud, run_id: str) -> Run:
    """Return the run; raises NotFoundError with similar names if there is none."""
    found = cloud.ledger.find_run(run_id)
    if found is not None:
        return found
    execution = cloud.workflow.find_execution(cloud.workflow.execution_arn(run_id))
    if execution is not None and execution.is_running:
        raise NotFoundError(f"{run_id} has only just started; try again in a few seconds")
    if execution is not None and execution.cause:
        raise NotFoundError(f"{run_id} never began: {execution.cause}")
    group = cloud.groups.find_group(run_id)
    if group is not None and group.kind == SWEEP:
        raise NotFoundError(
            f"{run_id} is a sweep, not a run; see `runctl sweep status {run_id}` and "
            "`runctl sweep --help`"
        )
    if group is not None:
        raise NotFoundError(
            f"{run_id} is a job of several runs; `runctl status {run_id}` shows their names"
        )
    known = [run.run_id for run in cloud.ledger.list_runs(limit=100)]
    close = difflib.get_close_matches(run_id, known, n=2, cutoff=0.5)
    close = close or [name for name in known if name.startswith(run_id)][:2]
    hint = f"did you mean {' or '.join(close)}?" if close else "see `runctl list`"
    raise NotFoundError(f"run {run_id!r} does not exist; {hint}")
