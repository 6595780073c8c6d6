"""`runctl aws train`: pack the project, upload it, start the run, follow it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.invocation import Invocation
from runctl.model.errors import RequestError
from runctl.model.request_fields import INSTANCE_ID

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.display.output import Output
    from runctl.cli.project.package import Package
    from runctl.cli.project.scan import Project
    from runctl.model.errors import Problem

_PLACEHOLDER = "s3://deployment/code/package.tar.gz"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A checked job: nothing is packed, uploaded or started yet."""

    name: str
    script: str
    document: dict[str, Any]
    project: Project | None
    warnings: tuple[Problem, ...] = ()


def train(
    invocation: Invocation,
    script: Annotated[
        str,
        typer.Argument(
            help="The program: a path in the project, or an s3:// URI of one file. Before it may "
            "stand an instance id: a machine that is there already, for the first attempt. With "
            "--command: any program, such as torchrun.",
        ),
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(help="What follows the script is the script's, options too."),
    ] = None,
    is_command: Annotated[
        bool,
        typer.Option(
            "--command",
            help="SCRIPT and what follows it are a command, started in the project's folder: "
            "--command torchrun --nproc-per-node 2 train.py.",
        ),
    ] = False,
    resume_args: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="More arguments when there is a checkpoint to resume from: "
            "'--resume $RUNCTL_CHECKPOINT_DIR', in single quotes.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(metavar="RUN", help="The run's name (default: script, time, 4 digits).")
    ] = "",
    instance_types: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPES", help="What the run may use; repeat, or put commas between."),
    ] = None,
    market: Annotated[
        str | None,
        typer.Option(metavar="MARKET", help="spot, on-demand or spot-then-on-demand."),
    ] = None,
    no_auto_resume: Annotated[
        bool, typer.Option("--no-auto-resume", help="End the run at its first interruption.")
    ] = False,
    max_attempts: Annotated[
        int | None, typer.Option(metavar="N", help="How many attempts may be launched.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="INSTANT", help="Launch nothing after it: 2030-01-31T18:00:00Z."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A variable of the trainer; repeat. A secret by reference: NAME=secret:ID from "
            "Secrets Manager (secret:ID#KEY: one value of a JSON secret), NAME=ssm:/PATH from "
            "Parameter Store; the machine reads it just before the trainer starts.",
        ),
    ] = None,
    not_secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A variable or an option of the program whose value looks like a secret and is "
            "not; repeat. For an option: --not-secret=--sort-key.",
        ),
    ] = None,
    credentials: Annotated[
        str | None,
        typer.Option(
            metavar="WHOSE", help="AWS credentials for the trainer: none, or run for its own run's."
        ),
    ] = None,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Where the trainer saves (default: RUNCTL_CHECKPOINT_DIR)."
        ),
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option(metavar="N", help="How many whole checkpoints stay.")
    ] = None,
    grace_seconds: Annotated[
        int | None,
        typer.Option(metavar="N", help="How long the trainer may take to save after SIGTERM."),
    ] = None,
    retry_exit_codes: Annotated[
        str | None,
        typer.Option(
            metavar="CODES",
            help="Failures of the trainer to retry from the newest checkpoint: exit codes with "
            "commas between, or any.",
        ),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many failures of the trainer are retried (3)."),
    ] = None,
    project: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="The folder to pack (default: the nearest with .runctl.toml).",
        ),
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Start the run and leave it going.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the request and the package; start nothing.")
    ] = False,
) -> None:
    """Train on EC2: pack the project, start a run, and follow it until it has ended."""
    from runctl.cli.commands.accompany import accompany
    from runctl.cli.commands.aws.request import (
        read_env,
        read_exit_codes,
        read_resume_args,
        split_types,
    )

    options: dict[str, Any] = {
        "instance_types": split_types(instance_types) if instance_types else None,
        "market": market,
        "auto_resume": False if no_auto_resume else None,
        "max_attempts": max_attempts,
        "deadline": deadline,
        "env": read_env(env) if env else None,
        "not_secrets": not_secret or None,
        "credentials": credentials,
        "resume_args": read_resume_args(resume_args) if resume_args else None,
        "checkpoint.dir": checkpoint_dir,
        "checkpoint.keep_last": keep_last,
        "checkpoint.grace_seconds": grace_seconds,
        "retry.exit_codes": read_exit_codes(retry_exit_codes) if retry_exit_codes else None,
        "retry.max_failures": max_failures,
    }
    machine = ""
    if INSTANCE_ID.fullmatch(script):
        if not args:
            raise RequestError(f"SCRIPT is missing after {script}, which is an instance")
        machine, script, *args = script, *args
        options["instance_id"] = machine
    given = {field: value for field, value in options.items() if value is not None}
    here = Path.cwd()
    is_named = bool(project)
    folder = Path(os.path.realpath(here / project)) if is_named else invocation.find_project()
    settings = invocation.settings(folder, is_named=is_named)
    job = _check(
        [script, *(args or ())],
        is_command=is_command,
        name=name,
        options=given,
        folder=folder,
        is_named=is_named,
        settings=settings,
    )
    cloud = invocation.connect(settings)
    _check_there(job, cloud)
    if machine and not dry_run:
        from runctl.cli.commands.aws.machines import prepare_machine

        prepare_machine(invocation, cloud, machine)
    left_out = _tell_left_out(job, invocation.output)
    with tempfile.TemporaryDirectory(prefix="runctl-") as scratch:
        package = _pack(job, Path(scratch), invocation.output)
        if package is not None:
            job.document["code"] = cloud.objects.uri(package.key)
        if dry_run:
            _show(job, package, cloud, invocation.output, left_out=left_out)
            return
        if package is not None:
            _upload(package, cloud, invocation.output)
    execution_arn = cloud.workflow.start_run(job.name, job.document)
    output = invocation.output
    if detach:
        output.result(
            {
                "run_id": job.name,
                "status": "pending",
                "execution_arn": execution_arn,
                "left_out": left_out,
            },
            f"{job.name} is started; see `runctl status {job.name}{invocation.flag}`",
        )
        return
    output.tell(f"{job.name} is started; Ctrl-C leaves it going")
    accompany(invocation, cloud, job.name, execution_arn)


def _check(
    words: list[str],
    *,
    is_command: bool,
    name: str,
    options: dict[str, Any],
    folder: Path,
    is_named: bool,
    settings: Any,
) -> _Job:
    from runctl.cli.commands.aws.request import build_request, check_deadline, check_name, name_run
    from runctl.cli.project.dependencies import check_dependencies
    from runctl.cli.project.folder import check_project_folder
    from runctl.cli.project.scan import check_command, locate_script, scan_project

    if name:
        check_name(name)
    script, *args = words
    project = None
    warnings: tuple[Problem, ...] = ()
    if is_command or not script.startswith("s3://"):
        if not is_named:
            check_project_folder(folder)
        project = scan_project(folder, largest_bytes=settings.largest_project_bytes)
        if is_command:
            check_command(words, project)
        else:
            script = locate_script(script, project, here=Path.cwd())
        warnings = check_dependencies(project, "" if is_command else script)
    document = build_request(
        script,
        args,
        is_command=is_command,
        options=options,
        settings=settings,
        code=_PLACEHOLDER if project is not None else "",
    )
    now = datetime.now(timezone.utc)
    check_deadline(document, now=now)
    return _Job(
        name=name or name_run(script, now=now),
        script="" if is_command else script,
        document=document,
        project=project,
        warnings=warnings,
    )


def _check_there(job: _Job, cloud: Cloud) -> None:
    """Refuse what PrepareRun would refuse, while nothing is uploaded or started."""
    from runctl.model.errors import InvalidRequestError, Problem
    from runctl.policy.images import problem_with_images

    if job.project is None and (problem := cloud.objects.problem_with(job.script)):
        raise InvalidRequestError((Problem("script", problem),))
    types = job.document.get("instance_types", [])
    if problem := problem_with_images(types, own_images=cloud.fleet.own_images):
        raise InvalidRequestError((Problem("instance_types", problem),))
    if problem := cloud.fleet.problem_with_types(types):
        raise InvalidRequestError((Problem("instance_types", problem),))
    run = cloud.ledger.find_run(job.name)
    if run is not None:
        raise InvalidRequestError(
            (
                Problem(
                    "--name",
                    f"there is a run {job.name!r} already; choose another name, or continue it "
                    f"with `runctl resume {job.name}`",
                ),
            )
        )


def _pack(job: _Job, scratch: Path, output: Output) -> Package | None:
    from runctl.cli.project.package import pack_project
    from runctl.report.wording import say_size

    if job.project is None:
        return None
    with output.progress("packing", total=job.project.size_bytes) as advance:
        package = pack_project(job.project, scratch / "package.tar.gz", progress=advance)
    count = sum(not member.is_folder for member in job.project.members)
    output.tell(
        f"packed {count} file{'s' if count != 1 else ''} of {job.project.folder}: "
        f"{say_size(job.project.size_bytes)}, {say_size(package.size_bytes)} compressed"
    )
    return package


def _tell_left_out(job: _Job, output: Output) -> list[dict[str, Any]]:
    """Say what of the project stays at home though the run may need it."""
    from runctl.cli.project.left_out_report import report_left_out

    for warning in job.warnings:
        output.tell(f"warning: {warning}", style="yellow")
    if job.project is None:
        return []
    words = job.document.get("command") or job.document.get("args", [])
    return report_left_out(job.project, job.script, words, output)


def _upload(package: Package, cloud: Cloud, output: Output) -> None:
    from runctl.report.wording import say_size

    with output.progress("uploading", total=package.size_bytes) as advance:
        is_new = cloud.objects.put_if_absent(package.key, package.path, progress=advance)
    output.tell(
        f"uploaded {say_size(package.size_bytes)}" if is_new else "the package is there already"
    )


def _show(
    job: _Job,
    package: Package | None,
    cloud: Cloud,
    output: Output,
    *,
    left_out: list[dict[str, Any]],
) -> None:
    import json

    from rich.text import Text

    from runctl.model.plain_secrets import mask_request
    from runctl.report.wording import say_size

    request = mask_request(job.document)
    members = [] if job.project is None else job.project.members
    packed = None
    if package is not None and job.project is not None:
        packed = {
            "project": str(job.project.folder),
            "sha256": package.sha256,
            "size_bytes": package.size_bytes,
            "is_uploaded": cloud.objects.exists(package.key),
            "files": [
                {"path": one.path + "/" * one.is_folder, "size_bytes": one.size_bytes}
                for one in members
            ],
        }
    document = {
        "dry_run": True,
        "run_id": job.name,
        "request": request,
        "package": packed,
        "left_out": left_out,
    }
    listing = "\n".join(
        f"{say_size(one.size_bytes):>9}  {one.path}{'/' * one.is_folder}" for one in members
    )
    output.result(
        document,
        Text(f"run {job.name}", style="bold"),
        json.dumps(request, indent=2),
        listing,
        Text("a dry run: nothing was uploaded or started", style="dim"),
    )
