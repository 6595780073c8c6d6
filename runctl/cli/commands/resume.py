"""`runctl resume`: continue a run that has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.attach import attach
from runctl.cli.commands.find import RunName, find_run
from runctl.cli.commands.resume_job import resume_job
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.identity import continuation_name
from runctl.model.kinds import PROCESS, policy_of
from runctl.model.outcome import RunStatus
from runctl.report.descriptions import checkpoint_name
from runctl.report.run_document import UnrecordedRun
from runctl.report.run_list import read_entry

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.run import Run
    from runctl.report.run_list import RunEntry


_MAX_CONTINUATIONS = 20


def resume(
    invocation: Invocation,
    run: RunName,
    detach: Annotated[bool, typer.Option("--detach", help="Resume the run and return.")] = False,
    fresh_environment: Annotated[
        bool,
        typer.Option(
            "--fresh-environment",
            help="Drop the recorded versions of the run's packages, and resolve them anew.",
        ),
    ] = False,
) -> None:
    """Continue a run that has ended, from its newest checkpoint.

    A job on several instances goes on with the shards that are not done.
    """
    cloud = invocation.cloud
    group = None if cloud.ledger.find_run(run) else cloud.groups.find_group(run)
    if group is not None and group.kind == PROCESS:
        resume_job(invocation, cloud, group, detach=detach, fresh_environment=fresh_environment)
        return
    held = find_run(cloud, run)
    if held.ended is None:
        raise InvalidRequestError(
            (
                Problem(
                    "RUN",
                    f"{run} has not ended; see `runctl status {run}`, or stop it "
                    f"with `runctl stop {run}`",
                ),
            )
        )
    if held.ended is RunStatus.COMPLETED:
        invocation.output.note(f"{run} is completed; its program may find nothing left to do")
    entry = read_entry(cloud.ledger, held)
    name, arn = start_next_execution(cloud, held, is_fresh=fresh_environment)
    message = f"{name} continues {run}{_where(entry)}"
    if detach:
        resumed = UnrecordedRun(
            run_id=run, status=RunStatus.PENDING, execution=name, execution_arn=arn
        )
        invocation.output.result(resumed.as_document(), message)
        return
    invocation.output.note(message)
    attach(invocation, cloud, run, arn, after_attempt=entry.attempt)


def _where(entry: RunEntry) -> str:
    """Describe where the next attempt begins."""
    if entry.kind == PROCESS:
        return " with the shards that are not done"
    if policy_of(entry.kind).becomes_ready:
        return ""
    checkpoint = checkpoint_name(entry)
    return f" from the checkpoint of {checkpoint}" if checkpoint else " from the beginning"


def start_next_execution(cloud: Cloud, run: Run, *, is_fresh: bool) -> tuple[str, str]:
    """Start the next execution; a name is taken if an earlier execution of it was refused."""
    document = {"run_id": run.run_id, **({"fresh_environment": True} if is_fresh else {})}
    first = run.executions + 1
    for number in range(first, first + _MAX_CONTINUATIONS):
        name = continuation_name(run.run_id, number)
        try:
            return name, cloud.workflow.start_run(name, document)
        except InvalidRequestError:
            if number == first + _MAX_CONTINUATIONS - 1:
                raise
    raise AssertionError("unreachable")
