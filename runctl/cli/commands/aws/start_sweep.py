"""The start of a sweep: its request is built and checked, packed and submitted, and followed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runctl.cli.commands.aws.docker_choice import DockerChoice
from runctl.cli.commands.aws.field_options import fields_with_options, parameter_name
from runctl.cli.commands.aws.job import (
    Job,
    Program,
    build_job,
    check_against_deployment,
    check_group_name,
)
from runctl.cli.commands.aws.job_options import market_of
from runctl.cli.commands.aws.option_values import read_option
from runctl.cli.commands.aws.start_run import locate
from runctl.cli.commands.aws.submission import pack, show, upload
from runctl.cli.commands.sweep.following import follow_sweep
from runctl.cli.invocation import Invocation
from runctl.cli.project.left_out_report import report_left_out
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem, RequestError
from runctl.model.hyperparameters import SyntaxProblemError, split_word
from runctl.model.request_checks import problem_with_deadline
from runctl.model.sweep_request import SweepRequest, parse_sweep_request
from runctl.model.trial import MAX_SWEEP_NAME

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud

SPACE = "--hyperparameters"
SWEEP = "sweep"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What the command line says about a sweep apart from the fields of its request."""

    hyperparameters: tuple[str, ...]
    script: str
    args: tuple[str, ...]
    is_command: bool
    spot: bool
    name: str
    project: str
    detach: bool
    dry_run: bool
    docker: DockerChoice

    @property
    def words(self) -> tuple[str, ...]:
        """The program and its arguments."""
        return self.args if self.is_command else (self.script, *self.args)


def start_sweep(invocation: Invocation, tuning: Tuning, options: Mapping[str, Any]) -> None:
    """Start a sweep and follow it; `options` are those of the request's fields."""
    if problem := _problem_with_words(tuning):
        raise RequestError(problem)
    sweep, fields = _read_fields(options)
    sweep["hyperparameters"] = read_space(tuning.hyperparameters)
    if market := market_of(fields.get("market"), spot=tuning.spot):
        fields["market"] = market
    location = locate(invocation, tuning.project)
    program = Program(
        words=tuning.words if tuning.script or tuning.is_command else (),
        is_command=tuning.is_command,
    )
    job = build_job(program, tuning.name, fields, location, tuning.docker)
    job = replace(job, name=tuning.name or job.name[:MAX_SWEEP_NAME])
    request = _check(job, sweep)
    cloud = invocation.connect(location.settings)
    _check_deployment(cloud, job)
    _submit(invocation, cloud, job, request, tuning)


def read_space(words: Sequence[str]) -> dict[str, str]:
    """Return the values of each hyperparameter, as they were given."""
    space: dict[str, str] = {}
    problems = []
    for word in words:
        try:
            name, values = split_word(word)
        except SyntaxProblemError as exc:
            problems.append(Problem(SPACE, str(exc)))
            continue
        if name in space:
            problem = f"{name} is given twice; list all of its values after one name"
            problems.append(Problem(SPACE, problem))
        space[name] = values
    if problems:
        raise InvalidRequestError(tuple(problems))
    return space


def _problem_with_words(tuning: Tuning) -> str:
    if tuning.is_command and tuning.script:
        return "--script: mutually exclusive with --command; give one of them"
    if tuning.is_command and not tuning.args:
        return "--command: needs the program after --: --command … -- torchrun train.py"
    if not tuning.is_command and not tuning.script and tuning.args:
        if tuning.args[0].endswith(".py"):
            return f"--script: missing; give --script {tuning.args[0]}"
        return f"--script: missing; name the program, whose arguments are {' '.join(tuning.args)!r}"
    return ""


def _read_fields(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the sweep and those of its trials that were given."""
    sweep: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for _, path, field, option in fields_with_options(SweepRequest, kind="train"):
        outer, dot, inner = path.partition(".")
        if path == "deadline":
            continue
        value = read_option(field, options.get(parameter_name(option)))
        if value is None:
            continue
        if outer == SWEEP and dot:
            sweep[inner] = value
        else:
            fields[path] = value
    return sweep, fields


def _check(job: Job, sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of the sweep; its problems name the options that they come from."""
    document = {**job.request, SWEEP: dict(sweep)}
    try:
        request = parse_sweep_request(document, group_id=job.name)
    except InvalidRequestError as exc:
        raise InvalidRequestError(
            tuple(Problem(_origin(problem.field), problem.message) for problem in exc.problems)
        ) from exc
    deadline = request.sweep.deadline
    if deadline is not None and (
        problem := problem_with_deadline(deadline, datetime.now(timezone.utc))
    ):
        raise _invalid("--deadline", problem)
    if len(job.name) > MAX_SWEEP_NAME:
        raise _invalid(
            "--name", f"{job.name!r} is too long for a sweep; use at most {MAX_SWEEP_NAME} letters"
        )
    return document


def _origin(field: str) -> str:
    options = {
        path: option.name for _, path, _, option in fields_with_options(SweepRequest, kind="train")
    }
    if field == f"{SWEEP}.hyperparameters":
        return SPACE
    return options.get(field, field)


def _check_deployment(cloud: Cloud, job: Job) -> None:
    if not cloud.deployment.sweep_machine_arn:
        raise NotFoundError(
            f"the deployment in {cloud.deployment.region} is too old for sweeps; run "
            "`runctl deploy`"
        )
    check_against_deployment(job, cloud)
    check_group_name(job.name, cloud)


def _submit(
    invocation: Invocation, cloud: Cloud, job: Job, request: dict[str, Any], tuning: Tuning
) -> None:
    output = invocation.output
    for warning in job.warnings:
        output.note(f"warning: {warning}", style="yellow")
    left_out = [] if job.project is None else report_left_out(job.project, job.script, [], output)
    with tempfile.TemporaryDirectory(prefix="runctl-") as scratch:
        package = pack(job, Path(scratch), output)
        if package is not None:
            request["code"] = cloud.objects.uri(package.key)
            job = job.with_code(request["code"])
        if tuning.dry_run:
            show(job, package, cloud, output, left_out=left_out, sweep=request[SWEEP])
            return
        upload(package, cloud, output)
        execution_arn = cloud.sweep_workflow.start_run(job.name, request)
    count = parse_sweep_request(request, group_id=job.name).sweep.trials
    begun = f"{job.name} has started: {count} trial{'s' if count != 1 else ''}"
    if tuning.detach:
        document = {
            SWEEP: job.name,
            "status": "pending",
            "trial_count": count,
            "execution_arn": execution_arn,
            "left_out": left_out,
        }
        see = f"`runctl sweep status {job.name}`"
        output.result(document, f"{begun}; see {see}")
        return
    output.note(f"{begun}; Ctrl-C leaves it running")
    follow_sweep(invocation, cloud, job.name, execution_arn)


def _invalid(option: str, message: str) -> InvalidRequestError:
    return InvalidRequestError((Problem(option, message),))
