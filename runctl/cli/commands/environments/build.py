"""`runctl environments build`: build and store an environment before a run needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from runctl.cli.commands.aws.docker_choice import DockerChoice
from runctl.cli.commands.aws.job import Program, build_job, check_against_deployment
from runctl.cli.commands.aws.option_values import split_commas
from runctl.cli.commands.aws.request import name_run
from runctl.cli.commands.aws.start_run import Start, locate, run_job
from runctl.cli.invocation import Invocation
from runctl.cli.project.dependencies import declares_packages
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.kinds import ENVIRONMENT
from runctl.model.pool import MachineKind, machine_kind
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES

# Building needs one processor for most of its time, and memory for the largest package.
SMALL = {
    MachineKind.X86_CPU: tuple(
        name.replace(".xlarge", ".large") for name in DEFAULT_INSTANCE_TYPES
    ),
    MachineKind.ARM_CPU: (
        "m7g.large", "m6g.large", "c7g.large", "c6g.large", "r7g.large", "r6g.large",
    ),
}  # fmt: skip
# What the request of a kind without a program has in its place.
NO_PROGRAM = ("true",)


def build(
    invocation: Invocation,
    project: Annotated[
        str,
        typer.Argument(
            metavar="[PROJECT]",
            help="The project's folder (default: the nearest with .runctl.toml or .git).",
        ),
    ] = "",
    script: Annotated[
        str,
        typer.Option(
            "--script",
            metavar="SCRIPT",
            help="The script whose packages to install (default: those that the project's own "
            "folder declares).",
        ),
    ] = "",
    instance_types: Annotated[
        list[str] | None,
        typer.Option(
            "--instance-types",
            metavar="TYPES",
            help="Instance types to build on, separated by commas (default: small ones of the "
            "architecture that the project's settings name). An environment fits instances of the "
            "same architecture, with the same Python.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="RUN", help="The name of the run that builds it.")
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Start to build and return.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the request and the package; start nothing.")
    ] = False,
) -> None:
    """Build the environment of a project on a small instance and store it, before a run needs it.

    It is a run without a program, which ends when the environment is stored.
    """
    if project and not Path(project).is_dir():
        raise InvalidRequestError((Problem("PROJECT", f"{project!r} is not a folder"),))
    location = locate(invocation, project)
    types = split_commas(instance_types or ()) or list(
        _small_types(location.settings.request.get("instance_types", ()))
    )
    # Built as root it would not be shared, and a run that is root may use it all the same.
    options = {"kind": ENVIRONMENT, "instance_types": types, "root": False}
    words = (script,) if script else NO_PROGRAM
    program = Program(words=words, is_command=not script)
    # A container has the packages of its image.
    docker = DockerChoice(avoid=True)
    now = datetime.now(timezone.utc)
    run_name = name or name_run(f"environment-{location.folder.name}", now=now)
    try:
        job = build_job(program, run_name, options, location, docker)
    except InvalidRequestError as exc:
        raise InvalidRequestError(tuple(map(_in_words_of_build, exc.problems))) from exc
    if job.project is None or not declares_packages(job.project, job.script):
        message = "no packages are declared, so there is nothing to build"
        raise InvalidRequestError((Problem("PROJECT", f"{location.folder}: {message}"),))
    cloud = invocation.connect(location.settings)
    check_against_deployment(job, cloud)
    start = Start(
        words=words,
        is_command=not script,
        name=run_name,
        project=project,
        detach=detach,
        dry_run=dry_run,
        docker=docker,
    )
    run_job(invocation, cloud, job, start)


def _in_words_of_build(problem: Problem) -> Problem:
    """Return a problem with the name that this command has for its field."""
    return replace(problem, field="--script") if problem.field == "script" else problem


def _small_types(named: Sequence[str]) -> tuple[str, ...]:
    """Return small instance types of the architecture of the named ones."""
    is_arm = {machine_kind(instance_type) is MachineKind.ARM_CPU for instance_type in named}
    if len(is_arm) > 1:
        raise InvalidRequestError(
            (
                Problem(
                    "--instance-types",
                    "the project's settings name instance types of two architectures, each of "
                    "which needs an environment of its own; give types of one of them",
                ),
            )
        )
    return SMALL[MachineKind.ARM_CPU if True in is_arm else MachineKind.X86_CPU]
