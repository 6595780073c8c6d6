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
        bool, typer.Option("--no-wait", help="Ask, and do not wait for the instances to be gone.")
    ] = False,
) -> None:
    """Stop a run: its trainer saves, its instances go. `resume` continues it."""
    cloud = invocation.cloud
    output = invocation.output
    held = cloud.ledger.find_run(run)
    if held is None:
        # Started a moment ago: its execution is there before the ledger knows of it.
        arn = cloud.workflow.execution_arn(run)
        execution = cloud.workflow.find_execution(arn)
        if execution is None or not execution.is_running:
            held = find_run(cloud, run)
    else:
        arn = held.execution_arn
    if held is not None and held.ended is not None:
        output.tell(f"{run} has ended already ({held.ended.value})")
    else:
        cloud.workflow.stop_run(arn, cause="stopped by `runctl stop`")
        output.tell(f"{run} is asked to stop")
    if not no_wait:
        try:
            _wait_until_gone(invocation, cloud, run)
        except KeyboardInterrupt:
            output.tell(f"\n{run} goes on stopping; see `runctl status {run}`")
            raise
    held = cloud.ledger.find_run(run)
    if held is None:
        output.result({"run_id": run, "status": "stopped"}, f"{run} was stopped before it began")
        return
    print_run(invocation, held, cloud.ledger.attempts(run))


def _wait_until_gone(invocation: Invocation, cloud: Cloud, run_id: str) -> None:
    """Wait until the run has ended and no instance of it is left."""
    deadline = time.monotonic() + _STOP_LIMIT.total_seconds()
    with invocation.output.spinner("waiting for the trainer to save") as say:
        while True:
            run = cloud.ledger.find_run(run_id)
            # The end first: after it nothing is launched any more.
            has_ended = run is None or run.ended is not None
            left = cloud.fleet.find_by_run(run_id)
            if has_ended and not left:
                return
            if time.monotonic() > deadline:
                names = ", ".join(one.instance_id for one in left) or "none"
                raise TimeoutError(
                    f"{run_id} still goes on after {_STOP_LIMIT}; instances left: {names}"
                )
            say(f"waiting for {', '.join(one.instance_id for one in left) or 'the end'}")
            time.sleep(cloud.pause)
