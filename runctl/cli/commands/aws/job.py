"""A training job: everything about a run that can be checked before anything is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runctl.cli.commands.aws.request import build_request, check_deadline, check_name, name_run
from runctl.cli.project.dependencies import check_dependencies
from runctl.cli.project.folder import check_project_folder
from runctl.cli.project.scan import Project, check_command, locate_script, scan_project
from runctl.model.errors import InvalidRequestError, Problem
from runctl.policy.images import problem_with_images

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.project.settings import Settings

# Requests are checked before the package exists, whose name depends on its content.
_PLACEHOLDER = "s3://deployment/code/package.tar.gz"


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run: a script and its arguments, or a command if `is_command`."""

    words: tuple[str, ...]
    is_command: bool = False

    @property
    def needs_project(self) -> bool:
        """Whether a project is packed for it; one file in S3 needs none."""
        return self.is_command or not self.words[0].startswith("s3://")


@dataclass(frozen=True, kw_only=True)
class Location:
    """The folder to pack, its settings, and whether the user named the folder."""

    folder: Path
    settings: Settings
    is_named: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """A checked job. `script` is empty for a command, `project` None for a script in S3."""

    name: str
    script: str
    request: Mapping[str, Any]
    project: Project | None
    warnings: tuple[Problem, ...] = ()

    def with_code(self, uri: str) -> Job:
        """Return the job with the URI of its package in the request."""
        return replace(self, request={**self.request, "code": uri})


def build_job(program: Program, name: str, options: Mapping[str, Any], location: Location) -> Job:
    """Return the job that the options and settings describe.

    Raises InvalidRequestError or ProjectError with every mistake that can be found locally.
    """
    if name:
        check_name(name)
    script, *args = program.words
    project = None
    warnings: tuple[Problem, ...] = ()
    if program.needs_project:
        project = _scan(location)
        script = _locate(program, project)
        warnings = check_dependencies(project, "" if program.is_command else script)
    request = build_request(
        script,
        args,
        is_command=program.is_command,
        options=options,
        settings=location.settings,
        code="" if project is None else _PLACEHOLDER,
    )
    now = datetime.now(timezone.utc)
    check_deadline(request, now=now)
    return Job(
        name=name or name_run(script, now=now),
        script="" if program.is_command else script,
        request=request,
        project=project,
        warnings=warnings,
    )


def _scan(location: Location) -> Project:
    if not location.is_named:
        check_project_folder(location.folder)
    return scan_project(location.folder, largest_bytes=location.settings.largest_project_bytes)


def _locate(program: Program, project: Project) -> str:
    """Return the script's path in the project, or a command's program as it was given."""
    script = program.words[0]
    if program.is_command:
        check_command(program.words, project)
        return script
    return locate_script(script, project, here=Path.cwd())


def check_against_deployment(job: Job, cloud: Cloud) -> None:
    """Refuse what PrepareRun would refuse, before anything is uploaded or started."""
    if job.project is None and (problem := cloud.objects.problem_with(job.script)):
        raise InvalidRequestError((Problem("script", problem),))
    types = job.request.get("instance_types", [])
    problem = problem_with_images(types, own_images=cloud.fleet.own_images)
    if problem := problem or cloud.fleet.problem_with_types(types):
        raise InvalidRequestError((Problem("instance_types", problem),))
    if cloud.ledger.find_run(job.name) is not None:
        problem = (
            f"a run {job.name!r} exists already; choose another name, or continue it with "
            f"`runctl resume {job.name}`"
        )
        raise InvalidRequestError((Problem("--name", problem),))
