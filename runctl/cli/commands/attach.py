"""The end of commands that start a run: follow it, and exit with the code of its status."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from runctl.cli.commands.status import read_document
from runctl.cli.display.following import open_display, summary
from runctl.cli.exit_codes import exit_code_for
from runctl.cli.invocation import Invocation
from runctl.model.errors import RefusedError
from runctl.model.outcome import RunStatus
from runctl.report.follower import Follower
from runctl.report.run_document import RunDocument, UnrecordedRun
from runctl.report.wording import format_duration

if TYPE_CHECKING:
    from rich.console import Console

    from runctl.cli.cloud import Cloud


def attach(
    invocation: Invocation,
    cloud: Cloud,
    run_id: str,
    execution_arn: str,
    *,
    after_attempt: int = 0,
) -> None:
    """Follow a run to its end, print how it ended, and exit with the code of its status."""
    output = invocation.output
    try:
        run = _follow(
            cloud,
            run_id,
            execution_arn,
            console=output.stderr,
            come_back=f"`runctl logs {run_id} -f`",
            after_attempt=after_attempt,
        )
    except KeyboardInterrupt:
        if output.as_json:
            held = cloud.ledger.find_run(run_id)
            pending = UnrecordedRun(
                run_id=run_id, status=RunStatus.PENDING, execution_arn=execution_arn
            )
            document = pending if held is None else read_document(cloud, held)
            output.result(document.as_document())
        raise
    if (held := cloud.ledger.find_run(run_id)) is not None:
        versions = cloud.versions(run_id, generation=held.environment_generation)
        run = replace(run, versions=versions.read())
    output.result(run.as_document(), summary(run, width=output.stdout.width))
    raise typer.Exit(exit_code_for(run.status, was_refused=run.was_refused))


def _follow(
    cloud: Cloud,
    run_id: str,
    execution_arn: str,
    *,
    console: Console,
    come_back: str,
    after_attempt: int = 0,
) -> RunDocument:
    """Follow a run on stderr; on Ctrl-C print how to attach again and raise the interrupt again."""
    began = time.monotonic()
    try:
        with open_display(console) as display:
            return Follower(cloud, run_id, execution_arn, display, after_attempt).follow()
    except KeyboardInterrupt:
        lasting = format_duration(timedelta(seconds=time.monotonic() - began))
        console.print(
            f"\nleft {run_id} running after {lasting}; attach again with {come_back}",
            soft_wrap=True,
        )
        raise
    except RefusedError:
        # Credentials that expire end this command, not the run.
        console.print(f"{run_id} continues; attach again with {come_back}", soft_wrap=True)
        raise
