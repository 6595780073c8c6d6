"""Attaching to a run that was just started, and exiting with the code of its end."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from runctl.cli.display.following import open_display
from runctl.cli.display.view import summary
from runctl.cli.exit_codes import exit_code_for
from runctl.cli.invocation import Invocation
from runctl.model.errors import RefusedError
from runctl.model.run import Attempt, Run, derive_status, was_refused
from runctl.report.documents import run_document
from runctl.report.follower import Follower
from runctl.report.wording import say_duration

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
    """Follow a run to its end, print how it ended, and exit with the code of that."""
    output = invocation.output
    try:
        run, attempts = _follow(
            cloud,
            run_id,
            execution_arn,
            console=output.stderr,
            come_back=f"runctl logs {run_id} -f{invocation.flag}",
            after_attempt=after_attempt,
        )
    except KeyboardInterrupt:
        if output.as_json:
            held = cloud.ledger.find_run(run_id)
            output.result(
                {"run_id": run_id, "status": "pending", "execution_arn": execution_arn}
                if held is None
                else run_document(held, cloud.ledger.attempts(run_id), cloud.versions(run_id))
            )
        raise
    output.result(
        run_document(run, attempts, cloud.versions(run_id)),
        summary(run, attempts, width=output.stdout.width),
    )
    status = derive_status(run, attempts)
    raise typer.Exit(exit_code_for(status, was_refused=was_refused(run, attempts)))


def _follow(
    cloud: Cloud,
    run_id: str,
    execution_arn: str,
    *,
    console: Console,
    come_back: str,
    after_attempt: int = 0,
) -> tuple[Run, list[Attempt]]:
    """Follow a run on stderr; on Ctrl-C print how to attach again and raise the interrupt again."""
    began = time.monotonic()
    try:
        with open_display(console) as display:
            return Follower(cloud, run_id, execution_arn, display, after_attempt).follow()
    except KeyboardInterrupt:
        lasting = say_duration(timedelta(seconds=time.monotonic() - began))
        console.print(
            f"\nleft {run_id} running after {lasting}; attach again with `{come_back}`",
            soft_wrap=True,
        )
        raise
    except RefusedError:
        # Credentials that expire end this command, not the run.
        console.print(f"{run_id} continues; attach again with `{come_back}`", soft_wrap=True)
        raise
