"""`runctl aws train`: build a job, pack and submit it, and follow the run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runctl.cli.commands.attach import attach
from runctl.cli.commands.aws import train_options as options
from runctl.cli.commands.aws.job import (
    Job,
    Location,
    Program,
    build_job,
    check_against_deployment,
)
from runctl.cli.commands.aws.machines import prepare_machine
from runctl.cli.commands.aws.request import (
    read_env,
    read_exit_codes,
    read_resume_args,
    split_types,
)
from runctl.cli.commands.aws.submission import pack, show, submit
from runctl.cli.invocation import Invocation
from runctl.cli.project.left_out_report import report_left_out
from runctl.model.errors import RequestError
from runctl.model.request_fields import INSTANCE_ID

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.display.output import Output


def train(
    invocation: Invocation,
    script: options.Script,
    args: options.ScriptArguments = None,
    is_command: options.IsCommand = False,
    resume_args: options.ResumeArguments = "",
    name: options.Name = "",
    instance_types: options.InstanceTypes = None,
    market: options.Market = None,
    no_auto_resume: options.NoAutoResume = False,
    max_attempts: options.MaxAttempts = None,
    deadline: options.Deadline = None,
    env: options.Env = None,
    not_secret: options.NotSecret = None,
    credentials: options.Credentials = None,
    checkpoint_dir: options.CheckpointDir = None,
    keep_last: options.KeepLast = None,
    grace_seconds: options.GraceSeconds = None,
    retry_exit_codes: options.RetryExitCodes = None,
    max_failures: options.MaxFailures = None,
    project: options.ProjectFolder = "",
    detach: options.Detach = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train on EC2: pack the project, start a run, and follow it until it ends."""
    instance_id, words = _split_instance([script, *(args or ())])
    fields = {
        "instance_id": instance_id or None,
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
    location = _locate(invocation, project)
    program = Program(words=words, is_command=is_command)
    given = {field: value for field, value in fields.items() if value is not None}
    job = build_job(program, name, given, location)
    cloud = invocation.connect(location.settings)
    check_against_deployment(job, cloud)
    if instance_id and not dry_run:
        prepare_machine(invocation, cloud, instance_id)
    _run(invocation, cloud, job, detach=detach, dry_run=dry_run)


def _split_instance(words: list[str]) -> tuple[str, tuple[str, ...]]:
    """Return the instance id that precedes the program, empty without one, and the program."""
    if not INSTANCE_ID.fullmatch(words[0]):
        return "", tuple(words)
    instance_id, *program = words
    if not program:
        raise RequestError(f"SCRIPT: missing after {instance_id}, which is an instance id")
    return instance_id, tuple(program)


def _locate(invocation: Invocation, named: str) -> Location:
    """Return the project: the folder that `--project` names, else the nearest one upwards."""
    folder = Path(os.path.realpath(Path.cwd() / named)) if named else invocation.find_project()
    settings = invocation.settings(folder, is_named=bool(named))
    return Location(folder=folder, settings=settings, is_named=bool(named))


def _run(invocation: Invocation, cloud: Cloud, job: Job, *, detach: bool, dry_run: bool) -> None:
    """Pack and submit the job, and follow its run; or only show what would be submitted."""
    output = invocation.output
    left_out = _report_left_out(job, output)
    with tempfile.TemporaryDirectory(prefix="runctl-") as scratch:
        package = pack(job, Path(scratch), output)
        if package is not None:
            job = job.with_code(cloud.objects.uri(package.key))
        if dry_run:
            show(job, package, cloud, output, left_out=left_out)
            return
        execution_arn = submit(job, package, cloud, output)
    if detach:
        document = {
            "run_id": job.name,
            "status": "pending",
            "execution_arn": execution_arn,
            "left_out": left_out,
        }
        see = f"`runctl status {job.name}{invocation.flag}`"
        output.result(document, f"{job.name} has started; see {see}")
        return
    output.note(f"{job.name} has started; Ctrl-C leaves it running")
    attach(invocation, cloud, job.name, execution_arn)


def _report_left_out(job: Job, output: Output) -> list[dict[str, Any]]:
    """Report what the package leaves out although the run may need it."""
    for warning in job.warnings:
        output.note(f"warning: {warning}", style="yellow")
    if job.project is None:
        return []
    words = job.request.get("command") or job.request.get("args", [])
    return report_left_out(job.project, job.script, words, output)
