"""`runctl status`: the state of one run."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.display.job_page import job_page
from runctl.cli.display.status_page import status_page
from runctl.cli.invocation import Invocation
from runctl.model.kinds import PROCESS
from runctl.report.processing_job import JobReader
from runctl.report.run_document import document_of

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.run import Run
    from runctl.report.run_document import RunDocument


def status(invocation: Invocation, run: RunName) -> None:
    """Show the state of a run and of each of its attempts."""
    cloud = invocation.cloud
    group = None if cloud.ledger.find_run(run) else cloud.groups.find_group(run)
    if group is not None and group.kind == PROCESS:
        job = JobReader(cloud).read(group)
        invocation.output.result(job.as_document(), job_page(job))
        return
    print_run(invocation, find_run(cloud, run))


def print_run(invocation: Invocation, run: Run) -> None:
    """Print the page or document of a run."""
    output = invocation.output
    document = read_document(invocation.cloud, run)
    output.result(document.as_document(), status_page(document, width=output.stdout.width))


def read_document(cloud: Cloud, run: Run) -> RunDocument:
    """Read what is known of a run besides its item."""
    attempts = cloud.ledger.attempts(run.run_id)
    versions = cloud.versions(run.run_id, generation=run.environment_generation).read()
    return document_of(run, attempts, versions, now=datetime.now(timezone.utc))
