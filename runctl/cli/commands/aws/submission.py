"""The submission of a job: its package is made, uploaded, and the run started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from runctl.cli.project.package import Package, pack_project
from runctl.model.errors import InvalidRequestError
from runctl.model.plain_secrets import mask_request
from runctl.model.request import RunRequest
from runctl.policy.session_policy import problems_with_session
from runctl.report.processing_job import is_processing_job
from runctl.report.wording import format_size

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.commands.aws.job import Job
    from runctl.cli.display.output import Output


def pack(job: Job, folder: Path, output: Output) -> Package | None:
    """Pack the job's project into a file in `folder`; return None for a job without a project."""
    if job.project is None:
        return None
    with output.progress("packing", total=job.project.size_bytes) as advance:
        package = pack_project(job.project, folder / "package.tar.gz", progress=advance)
    count = sum(not member.is_folder for member in job.project.members)
    output.note(
        f"packed {count} file{'s' if count != 1 else ''} of {job.project.folder}: "
        f"{format_size(job.project.size_bytes)}, {format_size(package.size_bytes)} compressed"
    )
    return package


def submit(job: Job, package: Package | None, cloud: Cloud, output: Output) -> str:
    """Upload the package unless it is there, start the run, and return the execution's ARN."""
    upload(package, cloud, output)
    workflow = cloud.processing_workflow if is_processing_job(job.request) else cloud.workflow
    return workflow.start_run(job.name, dict(job.request))


def upload(package: Package | None, cloud: Cloud, output: Output) -> None:
    """Upload a package unless it is there."""
    if package is not None:
        with output.progress("uploading", total=package.size_bytes) as advance:
            is_new = cloud.objects.put_if_absent(package.key, package.path, progress=advance)
        output.note(
            f"uploaded {format_size(package.size_bytes)}"
            if is_new
            else "the package is already uploaded"
        )


def show(
    job: Job,
    package: Package | None,
    cloud: Cloud,
    output: Output,
    *,
    left_out: list[dict[str, Any]],
    sweep: Mapping[str, Any] | None = None,
) -> None:
    """Show what `submit` would upload and start; `sweep` is what the runs of a sweep try.

    Raises InvalidRequestError for a request that no session of the run could be limited to.
    """
    stored = RunRequest.from_stored(job.request)
    if problems := problems_with_session(stored, job.name, cloud.place):
        raise InvalidRequestError(problems)
    request = mask_request(job.request)
    if sweep is not None:
        request["sweep"] = dict(sweep)
    members = [] if job.project is None else job.project.members
    listing = "\n".join(
        f"{format_size(member.size_bytes):>9}  {member.path}{'/' * member.is_folder}"
        for member in members
    )
    output.result(
        {
            "dry_run": True,
            "run_id": job.name,
            "request": request,
            "package": _package_document(job, package, cloud),
            "left_out": left_out,
        },
        Text(f"run {job.name}", style="bold"),
        json.dumps(request, indent=2),
        listing,
        Text("a dry run: nothing was uploaded or started", style="dim"),
    )


def _package_document(job: Job, package: Package | None, cloud: Cloud) -> dict[str, Any] | None:
    if package is None or job.project is None:
        return None
    return {
        "project": str(job.project.folder),
        "sha256": package.sha256,
        "size_bytes": package.size_bytes,
        "is_uploaded": cloud.objects.exists(package.key),
        "files": [
            {"path": member.path + "/" * member.is_folder, "size_bytes": member.size_bytes}
            for member in job.project.members
        ],
    }
