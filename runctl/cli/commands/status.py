"""`runctl status`: the state of one run."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.display.view import status_page
from runctl.cli.invocation import Invocation
from runctl.report.documents import run_document

if TYPE_CHECKING:
    from runctl.model.run import Attempt, Run


def status(invocation: Invocation, run: RunName) -> None:
    """Show the state of a run and of each of its attempts."""
    cloud = invocation.cloud
    found = find_run(cloud, run)
    print_run(invocation, found, cloud.ledger.attempts(run))


def print_run(invocation: Invocation, run: Run, attempts: list[Attempt]) -> None:
    """Print the page or document of a run."""
    output = invocation.output
    now = datetime.now(timezone.utc)
    versions = invocation.cloud.versions(run.run_id)
    page = status_page(run, attempts, versions, now=now, width=output.stdout.width)
    output.result(run_document(run, attempts, versions), page)
