"""A training job: everything about a run that can be checked before anything is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runctl.cli.commands.aws.data_checks import problems_with_data
from runctl.cli.commands.aws.docker_choice import (
    LOCAL,
    DockerChoice,
    choose_dockerfile,
    given_source,
    without_overridden,
)
from runctl.cli.commands.aws.replicas import replicas_of
from runctl.cli.commands.aws.request import (
    build_request,
    check_deadline,
    check_name,
    declared_harmless,
    name_run,
)
from runctl.cli.project.dependencies import check_dependencies
from runctl.cli.project.folder import check_project_folder
from runctl.cli.project.scan import Project, check_command, locate_script, scan_project
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.image_reference import parse_image_reference
from runctl.model.request import RunRequest
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES
from runctl.policy.images import problem_with_images
from runctl.policy.platforms import choose_platform, types_for
from runctl.report.sweep_document import KIND as SWEEP

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.project.settings import Settings

# Requests are checked before the package exists, whose name depends on its content.
_PLACEHOLDER = "s3://deployment/code/package.tar.gz"


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run: a script and its arguments, or a command if `is_command`.

    Without words, it is the command of the run's image.
    """

    words: tuple[str, ...]
    is_command: bool = False

    @property
    def needs_project(self) -> bool:
        """Whether a project is packed for it; one file in S3 needs none."""
        return self.is_command or bool(self.words and not self.words[0].startswith("s3://"))


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

    def with_docker(self, docker: Mapping[str, str]) -> Job:
        """Return the job with an image in place of its Dockerfile."""
        return replace(self, request={**self.request, "docker": dict(docker)})


def build_job(
    program: Program,
    name: str,
    options: Mapping[str, Any],
    location: Location,
    docker: DockerChoice = DockerChoice(),
) -> Job:
    """Return the job that the options and settings describe.

    Raises InvalidRequestError or ProjectError with every mistake that can be found locally.
    """
    if name:
        check_name(name)
    if problem := docker.problem():
        raise InvalidRequestError((problem,))
    settings = without_overridden(docker, options, location.settings)
    image = given_source("image", options, settings)
    project = _scan(location) if program.needs_project or not (program.words or image) else None
    options = _with_dockerfile(docker, options, settings, project, bool(program.words))
    script = ""
    warnings: tuple[Problem, ...] = ()
    if program.words:
        script = program.words[0] if project is None else _locate(program, project)
    in_container = bool(image or options.get("docker.dockerfile"))
    if project is not None and not in_container:
        warnings = check_dependencies(
            project,
            "" if program.is_command else script,
            not_secrets=declared_harmless(options, settings),
        )
    request = build_request(
        script,
        program.words[1:],
        is_command=program.is_command,
        options=options,
        settings=settings,
        code="" if project is None else _PLACEHOLDER,
    )
    now = datetime.now(timezone.utc)
    check_deadline(request, now=now)
    return Job(
        name=name or name_run(script or _name_of(image, project), now=now),
        script="" if program.is_command else script,
        request=request,
        project=project,
        warnings=(*warnings, *_left_out_types(request)),
    )


def _with_dockerfile(
    docker: DockerChoice,
    options: Mapping[str, Any],
    settings: Settings,
    project: Project | None,
    has_program: bool,
) -> Mapping[str, Any]:
    """Return the options with the Dockerfile of the project, if the run uses one."""
    path = choose_dockerfile(docker, options, settings, project, has_program=has_program)
    if not path and docker.build == LOCAL:
        message = "the project has no Dockerfile to build; write one, or name it with --dockerfile"
        raise InvalidRequestError((Problem("--build", message),))
    return {**options, "docker.dockerfile": path} if path else options


def _name_of(image: str, project: Project | None) -> str:
    """Return what a run of an image's own command is named after."""
    reference = parse_image_reference(image)
    if reference is not None:
        return reference.name
    return "" if project is None else project.folder.name


def _left_out_types(request: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Say which instance types cannot run an image that is built for most of them."""
    types = request.get("instance_types", DEFAULT_INSTANCE_TYPES)
    if not request.get("docker", {}).get("dockerfile"):
        return ()
    platform = choose_platform(types)
    kept = types_for(types, platform)
    if left_out := [name for name in types if name not in kept]:
        message = f"{', '.join(left_out)} left out, because the image is built for {platform}"
        return (Problem("instance_types", message),)
    return ()


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
    is_in_s3 = job.script.startswith("s3://")
    if is_in_s3 and (problem := cloud.objects.problem_with(job.script)):
        raise InvalidRequestError((Problem("script", problem),))
    types = job.request.get("instance_types", [])
    problem = problem_with_images(types, own_images=cloud.fleet.own_images)
    if problem := problem or cloud.fleet.problem_with_types(types):
        raise InvalidRequestError((Problem("instance_types", problem),))
    if problems := tuple(problems_with_data(RunRequest.from_stored(job.request), cloud)):
        raise InvalidRequestError(problems)
    for name in [each.name for each in replicas_of(job)]:
        if cloud.ledger.find_run(name) is not None:
            problem = (
                f"a run {name!r} exists already; choose another name, or continue it with "
                f"`runctl resume {name}`"
            )
            raise InvalidRequestError((Problem("--name", problem),))


def check_group_name(name: str, cloud: Cloud) -> None:
    """Refuse the name of an earlier sweep, or of an earlier job of several runs."""
    group = cloud.groups.find_group(name)
    if group is None:
        return
    what, command = (
        ("sweep", "sweep resume") if group.kind == SWEEP else ("job of several runs", "resume")
    )
    problem = (
        f"{name!r} is the name of an earlier {what}; choose another name, or continue it with "
        f"`runctl {command} {name}`"
    )
    raise InvalidRequestError((Problem("--name", problem),))
