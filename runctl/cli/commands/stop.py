"""`runctl stop`: stop a run."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.commands.status import print_run
from runctl.cli.invocation import Invocation

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud


_STOP_LIMIT = timedelta(minutes=15)


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
            _wait_until_gone(invocation, cloud, run)
        except KeyboardInterrupt:
            output.note(f"\n{run} continues to stop; see `runctl status {run}`")
            raise
    held = cloud.ledger.find_run(run)
    if held is None:
        output.result({"run_id": run, "status": "stopped"}, f"{run} was stopped before it began")
        return
    print_run(invocation, held, cloud.ledger.attempts(run))


def _wait_until_gone(invocation: Invocation, cloud: Cloud, run_id: str) -> None:
    """Wait until the run has ended and none of its instances is left."""
    deadline = time.monotonic() + _STOP_LIMIT.total_seconds()
    with invocation.output.spinner("waiting for the trainer to save") as update:
        while True:
            run = cloud.ledger.find_run(run_id)
            # Read the end first: nothing is launched after it.
            has_ended = run is None or run.ended is not None
            left = cloud.fleet.find_by_run(run_id)
            if has_ended and not left:
                return
            if time.monotonic() > deadline:
                names = ", ".join(machine.instance_id for machine in left) or "none"
                raise TimeoutError(
                    f"{run_id} has not stopped within {_STOP_LIMIT}; instances left: {names}"
                )
            names = ", ".join(machine.instance_id for machine in left)
            update(f"waiting for {names or 'the end of the run'}")
            time.sleep(cloud.pause)
