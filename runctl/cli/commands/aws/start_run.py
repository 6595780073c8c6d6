"""The start of a run: its job is built, checked, packed and submitted, and the run followed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runctl.cli.commands.attach import attach
from runctl.cli.commands.aws.docker_choice import (
    LOCAL,
    DockerChoice,
    given_source,
    take_docker_words,
)
from runctl.cli.commands.aws.field_options import fields_with_options, parameter_name
from runctl.cli.commands.aws.follow_job import check_job, follow_job
from runctl.cli.commands.aws.job import (
    Job,
    Location,
    Program,
    build_job,
    check_against_deployment,
)
from runctl.cli.commands.aws.lending import LEND_FOR, lend_machine, lending_time
from runctl.cli.commands.aws.local_build import with_local_image
from runctl.cli.commands.aws.machines import prepare_machine
from runctl.cli.commands.aws.option_values import read_option
from runctl.cli.commands.aws.replicas import listed, replicas_of
from runctl.cli.commands.aws.script_words import read_script_words
from runctl.cli.commands.aws.submission import pack, show, submit
from runctl.cli.invocation import Invocation
from runctl.cli.project.dockerfiles import PLACES
from runctl.cli.project.left_out_report import report_left_out
from runctl.model.docker_options import SOURCES
from runctl.model.errors import RequestError
from runctl.model.kinds import SERVE, TRAIN
from runctl.model.request_checks import INSTANCE_ID
from runctl.model.resource_options import SMALL_INSTANCE_TYPES
from runctl.report.processing_job import is_processing_job

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.display.output import Output


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the command line says about a run apart from the fields of its request.

    `words` are the program and its arguments, after an instance id if there is one. `kind` is the
    kind of run that the command starts. `lend_for` is how long other runs may start on the
    instance, too.
    """

    words: tuple[str, ...]
    is_command: bool
    name: str
    project: str
    detach: bool
    dry_run: bool
    docker: DockerChoice
    kind: str = TRAIN
    lend_for: str = LEND_FOR


def start_run(invocation: Invocation, start: Start, options: Mapping[str, Any]) -> None:
    """Start a run and follow it; `options` are those of the request's fields."""
    fields = _fields(options, start.kind)
    lasting = lending_time("--lend-for", start.lend_for)
    words, docker = start.words, start.docker
    if not start.is_command:
        words, use, image = take_docker_words(words)
        docker = replace(docker, use=docker.use or use)
        if image:
            fields["docker.image"] = image
    instance_id, words = split_instance(words)
    if instance_id:
        fields["instance_id"] = instance_id
    if words and not start.is_command:
        read = read_script_words(start.kind, words[1:], fields)
        words, fields = (words[0], *read.args), dict(read.fields)
        if read.note:
            invocation.output.note(read.note)
    location = locate(invocation, start.project)
    if not words and (start.is_command or not _may_have_command(docker, fields, location)):
        after = f" after {instance_id}" if instance_id else ""
        where = "--script: missing" if start.kind == SERVE else f"SCRIPT: missing{after}"
        raise RequestError(
            f"{where}; name the program, or give an image that has a command "
            "(--docker-image, --use-docker)"
        )
    fields |= _types_to_follow(fields, location)
    program = Program(words=words, is_command=start.is_command)
    job = build_job(program, start.name, fields, location, docker)
    cloud = invocation.connect(location.settings)
    check_against_deployment(job, cloud)
    if is_processing_job(job.request):
        check_job(job, cloud)
    if instance_id and not start.dry_run:
        lend = partial(lend_machine, cloud, lasting=lasting)
        prepare_machine(invocation, cloud, instance_id, lend=lend)
    run_job(invocation, cloud, job, replace(start, docker=docker))


def _fields(options: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the fields that were given, by their paths."""
    read = {
        path: read_option(field, options.get(parameter_name(option)))
        for _, path, field, option in fields_with_options(kind=kind)
    }
    given = {path: value for path, value in read.items() if value is not None}
    return given if kind == TRAIN else {"kind": kind, **given}


def split_instance(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the instance id that precedes the program, empty without one, and the program."""
    if not words or not INSTANCE_ID.fullmatch(words[0]):
        return "", words
    return words[0], words[1:]


def _types_to_follow(fields: Mapping[str, Any], location: Location) -> dict[str, Any]:
    """Return small instance types for an evaluation that follows a run, unless some are given."""
    is_given = "instance_types" in fields or "instance_types" in location.settings.request
    if is_given or not fields.get("evaluate.every_checkpoint"):
        return {}
    return {"instance_types": SMALL_INSTANCE_TYPES}


def _may_have_command(docker: DockerChoice, fields: Mapping[str, Any], location: Location) -> bool:
    """Whether a run without a script may be meant, because it has an image or a Dockerfile."""
    named = any(given_source(source, fields, location.settings) for source in SOURCES)
    found = any((location.folder / place).is_file() for place in PLACES)
    return not docker.avoid and (docker.use or named or found)


def locate(invocation: Invocation, named: str) -> Location:
    """Return the project: the folder that `--project` names, else the nearest one upwards."""
    folder = Path(os.path.realpath(Path.cwd() / named)) if named else invocation.find_project()
    settings = invocation.settings(folder, is_named=bool(named))
    return Location(folder=folder, settings=settings, is_named=bool(named))


def run_job(invocation: Invocation, cloud: Cloud, job: Job, start: Start) -> None:
    """Pack and submit the job, and follow its run; or only show what would be submitted."""
    output = invocation.output
    left_out = _report_left_out(job, output)
    with tempfile.TemporaryDirectory(prefix="runctl-") as scratch:
        package = pack(job, Path(scratch), output)
        if package is not None:
            job = job.with_code(cloud.objects.uri(package.key))
        if start.dry_run:
            show(job, package, cloud, output, left_out=left_out)
            return
        if package is not None and start.docker.build == LOCAL:
            job = with_local_image(job, package, cloud, start.docker, output)
        first, *others = replicas_of(job)
        execution_arn = submit(first, package, cloud, output)
        for other in others:
            cloud.workflow.start_run(other.name, dict(other.request))
    if others:
        names = [first.name, *(other.name for other in others)]
        output.result(
            {"service": job.name, "runs": names, "left_out": left_out},
            f"{listed(names)} have started; `runctl aws connect {job.name}` "
            "reaches those that are ready",
        )
        return
    if start.detach:
        document = {
            "run_id": job.name,
            "status": "pending",
            "execution_arn": execution_arn,
            "left_out": left_out,
        }
        see = f"`runctl status {job.name}`"
        output.result(document, f"{job.name} has started; see {see}")
        return
    output.note(f"{job.name} has started; Ctrl-C leaves it running")
    if is_processing_job(job.request):
        follow_job(invocation, cloud, job.name, execution_arn)
    attach(invocation, cloud, job.name, execution_arn)


def _report_left_out(job: Job, output: Output) -> list[dict[str, Any]]:
    """Report what the package leaves out although the run may need it."""
    for warning in job.warnings:
        output.note(f"warning: {warning}", style="yellow")
    if job.project is None:
        return []
    words = job.request.get("command") or job.request.get("args", [])
    return report_left_out(job.project, job.script, words, output)
