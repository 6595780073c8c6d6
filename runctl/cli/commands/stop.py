"""`runctl stop`: stop a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.commands.status import print_run
from runctl.cli.commands.stop_job import stop_job
from runctl.cli.invocation import Invocation
from runctl.model.kinds import PROCESS
from runctl.model.outcome import RunStatus
from runctl.report.run_document import UnrecordedRun
from runctl.report.stopping import watch_stop

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.display.output import Output


def stop(
    invocation: Invocation,
    run: RunName,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until the instances are terminated.")
    ] = False,
) -> None:
    """Stop a run: its trainer saves, then its instances are terminated."""
    cloud = invocation.cloud
    output = invocation.output
    held = cloud.ledger.find_run(run)
    group = None if held is not None else cloud.groups.find_group(run)
    if group is not None and group.kind == PROCESS:
        stop_job(invocation, cloud, group, no_wait=no_wait)
        return
    if held is None:
        # The execution of a run that has just started exists before its entry in the ledger.
        arn = cloud.workflow.execution_arn(run)
        execution = cloud.workflow.find_execution(arn)
        if execution is None or not execution.is_running:
            held = find_run(cloud, run)
    else:
        arn = held.execution_arn
    if held is not None and held.ended is not None:
        output.note(f"{run} has already ended ({held.ended.value})")
    else:
        cloud.workflow.stop_run(arn, cause="stopped by `runctl stop`")
        output.note(f"stopping {run}")
    if not no_wait:
        try:
            _wait_until_gone(output, cloud, run)
        except KeyboardInterrupt:
            output.note(f"\n{run} continues to stop; see `runctl status {run}`")
            raise
    held = cloud.ledger.find_run(run)
    if held is None:
        unrecorded = UnrecordedRun(run_id=run, status=RunStatus.STOPPED)
        output.result(unrecorded.as_document(), f"{run} was stopped before it began")
        return
    print_run(invocation, held)


def _wait_until_gone(output: Output, cloud: Cloud, run_id: str) -> None:
    with output.spinner("waiting for the program to end") as update:
        for progress in watch_stop(cloud, run_id):
            names = ", ".join(progress.instance_ids)
            if not progress.is_done:
                update(f"waiting for {names or 'the end of the run'}")
