"""`runctl sweep resume`: continue a sweep that has ended."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.continuing import start_next_execution
from runctl.cli.commands.sweep.find import SweepName, find_sweep
from runctl.cli.commands.sweep.following import follow_sweep
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem


def resume(
    invocation: Invocation,
    sweep: SweepName,
    detach: Annotated[bool, typer.Option("--detach", help="Resume the sweep and return.")] = False,
) -> None:
    """Continue a sweep: trials that were stopped or never started run to their end."""
    cloud = invocation.cloud
    group = find_sweep(cloud, sweep)
    if group.ended is None and cloud.sweep_workflow.is_running(group.execution_arn):
        problem = f"{sweep} has not ended; see `runctl sweep status {sweep}`"
        raise InvalidRequestError((Problem("SWEEP", problem),))
    name, arn = start_next_execution(cloud.sweep_workflow, group)
    message = f"{name} continues {sweep}"
    if detach:
        document = {"sweep": sweep, "status": "pending", "execution": name, "execution_arn": arn}
        invocation.output.result(document, message)
        return
    invocation.output.note(message)
    follow_sweep(invocation, cloud, sweep, arn)
