"""The stop of a job on several instances: that of its state machine, and with it of its runs."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from runctl.cli.display.job_page import job_page
from runctl.cli.invocation import Invocation
from runctl.model.errors import RunctlError
from runctl.report.processing_job import JobReader

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.group import Group

# Scripts end within their grace period, and clean-up follows.
TIMEOUT = timedelta(minutes=10)


def stop_job(invocation: Invocation, cloud: Cloud, group: Group, *, no_wait: bool) -> None:
    """Stop a job and print its page; each of its runs stops as one of its own does."""
    output, name = invocation.output, group.group_id
    if group.ended is not None:
        output.note(f"{name} has already ended ({group.ended.value})")
    else:
        cloud.workflow.stop_run(group.execution_arn, cause="stopped by `runctl stop`")
        output.note(f"stopping {name}")
        if not no_wait:
            try:
                with output.spinner("waiting for the runs of the job to end"):
                    _wait_for_end(cloud, name)
            except KeyboardInterrupt:
                see = f"`runctl status {name}`"
                output.note(f"\n{name} continues to stop; see {see}")
                raise
    job = JobReader(cloud).read(cloud.groups.find_group(name) or group)
    output.result(job.as_document(), job_page(job))


def _wait_for_end(cloud: Cloud, name: str) -> None:
    reader, until = JobReader(cloud), time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < until:
        group = cloud.groups.find_group(name)
        if group is None:
            return
        job = reader.read(group)
        if group.ended is not None and all(run.entry.has_ended for run in job.runs):
            return
        time.sleep(cloud.pause)
    raise RunctlError(
        f"{name} has not ended within {TIMEOUT.total_seconds() / 60:.0f} minutes; see "
        f"`runctl status {name}`"
    )
