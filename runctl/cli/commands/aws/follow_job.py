"""The end of `runctl aws process` with several instances: follow the job to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.live import Live

from runctl.cli.commands.aws.job import check_group_name
from runctl.cli.display.job_page import job_page, job_view
from runctl.cli.exit_codes import exit_code_for
from runctl.cli.invocation import Invocation
from runctl.model.errors import (
    InvalidRequestError,
    NotFoundError,
    Problem,
    RefusedError,
    TransientError,
)
from runctl.report.descriptions import describe_shards
from runctl.report.ended_execution import refusal, require_recorded
from runctl.report.processing_job import JobDocument, JobReader

if TYPE_CHECKING:
    from rich.console import Console

    from runctl.cli.cloud import Cloud
    from runctl.cli.commands.aws.job import Job

ANNOUNCE_SECONDS = 10.0


def check_job(job: Job, cloud: Cloud) -> None:
    """Refuse a job on several instances that the deployment would refuse."""
    if not cloud.deployment.process_machine_arn:
        raise NotFoundError(
            f"the deployment in {cloud.deployment.region} is too old for several instances; run "
            "`runctl deploy`, or leave out --instances"
        )
    if job.request.get("instance_id"):
        problem = "mutually exclusive with --instances; give one of them"
        raise InvalidRequestError((Problem("INSTANCE", problem),))
    check_group_name(job.name, cloud)


def follow_job(invocation: Invocation, cloud: Cloud, name: str, execution_arn: str) -> NoReturn:
    """Follow a job to its end, print its page, and exit with the code of its status."""
    output = invocation.output
    try:
        with _showing(output.stderr) as show:
            job = _follow(cloud, name, execution_arn, show)
    except (KeyboardInterrupt, RefusedError):
        # Credentials that expire end this command, not the job.
        output.note(f"\n{name} continues; see `runctl status {name}`")
        raise
    output.result(job.as_document(), job_page(job))
    raise typer.Exit(exit_code_for(job.status, was_refused=False))


def _follow(
    cloud: Cloud, name: str, execution_arn: str, show: Callable[[JobDocument], None]
) -> JobDocument:
    reader = JobReader(cloud)
    while True:
        try:
            # Read before the ledger, which has the end of a job before its execution ends.
            execution = cloud.processing_workflow.find_execution(execution_arn)
            group = cloud.groups.find_group(name)
            if group is not None and group.execution_arn == execution_arn:
                job = reader.read(group)
                if group.ended is not None:
                    return job
                show(job)
            if execution is not None and not execution.is_running:
                if group is None:
                    raise refusal(execution, "job")
                require_recorded(execution, "job")
        except TransientError:
            pass  # the job does not depend on this process
        time.sleep(cloud.pause)


@contextmanager
def _showing(console: Console) -> Iterator[Callable[[JobDocument], None]]:
    """Return how a job is shown: a live view on a terminal, lines from time to time elsewhere."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda job: live.update(job_view(job))
        return
    shown, shown_at = "", float("-inf")

    def announce(job: JobDocument) -> None:
        nonlocal shown, shown_at
        text = describe_shards(job.shards, has_ended=False)
        if text != shown and time.monotonic() - shown_at >= ANNOUNCE_SECONDS:
            shown, shown_at = text, time.monotonic()
            console.print(f"── shards {text}", style="cyan", soft_wrap=True)

    yield announce
