"""Staying with a run that was just started, and exiting by how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from runctl.cli.exit_codes import exit_code_for
from runctl.cli.invocation import Invocation

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud


def accompany(
    invocation: Invocation,
    cloud: Cloud,
    run_id: str,
    execution_arn: str,
    *,
    after_attempt: int = 0,
) -> None:
    """Follow a run to its end, print how it ended, and exit by that."""
    from runctl.cli.display.view import summary
    from runctl.cli.follow import follow_run
    from runctl.model.run import derive_status, was_refused
    from runctl.report.documents import run_document

    output = invocation.output
    try:
        run, attempts = follow_run(
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
