"""`runctl aws hyperparameter-tune`: start a sweep, and follow it until it ends."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from runctl.cli.commands.aws.field_options import field_parameters
from runctl.cli.commands.aws.job_options import DryRun, NoDocker, Project, Spot, UseDocker
from runctl.cli.invocation import Invocation
from runctl.model.sweep_request import NOT_IN_A_SWEEP, SweepRequest


def hyperparameter_tune(
    invocation: Invocation,
    hyperparameters: Annotated[
        list[str],
        typer.Option(
            "--hyperparameters",
            metavar="NAME:VALUES...",
            help="Hyperparameters and their values: lists (learning_rate:0.001,0.01), ranges "
            "(layers:2..8, lr:1e-5..1e-1:log) and stepped ranges (dropout:0.0..0.5:6).",
            show_default=False,
        ),
    ],
    script: Annotated[
        str,
        typer.Option(
            metavar="SCRIPT",
            help="The program: a path in the project, or the S3 URI of one file. Without it, the "
            "command of the image runs.",
        ),
    ] = "",
    args: Annotated[
        list[str] | None,
        typer.Argument(
            help="After --: arguments that every trial gets, before its hyperparameters."
        ),
    ] = None,
    is_command: Annotated[
        bool,
        typer.Option(
            "--command",
            help="The words after -- are the program and its arguments: "
            "--command … -- torchrun --nproc-per-node 2 train.py.",
        ),
    ] = False,
    spot: Spot = False,
    name: Annotated[
        str,
        typer.Option(
            metavar="SWEEP",
            help="The sweep's name (default: the script's name, the time and 4 digits).",
        ),
    ] = "",
    project: Project = "",
    detach: Annotated[bool, typer.Option("--detach", help="Start the sweep and return.")] = False,
    dry_run: DryRun = False,
    use_docker: UseDocker = False,
    no_docker: NoDocker = False,
    **fields: Any,
) -> None:
    """Try hyperparameters: start one run for each trial, several at once, and find the best.

    Each trial is a run of its own, resumes after an interruption, and keeps its checkpoints. Ctrl-C
    ends the command, not the sweep.
    """
    from runctl.cli.commands.aws.docker_choice import DockerChoice
    from runctl.cli.commands.aws.start_sweep import Tuning, start_sweep

    tuning = Tuning(
        hyperparameters=tuple(hyperparameters),
        script=script,
        args=tuple(args or ()),
        is_command=is_command,
        spot=spot,
        name=name,
        project=project,
        detach=detach,
        dry_run=dry_run,
        docker=DockerChoice(use=use_docker, avoid=no_docker),
    )
    start_sweep(invocation, tuning, fields)


def _with_field_options(function: Any) -> inspect.Signature:
    """Return a function's signature with the options of the table in place of its `**fields`."""
    *own, _ = inspect.signature(function, eval_str=True).parameters.values()
    options = field_parameters(SweepRequest, without={"deadline", *NOT_IN_A_SWEEP})
    return inspect.Signature([*own, *options])


hyperparameter_tune.__signature__ = _with_field_options(  # type: ignore[attr-defined]
    hyperparameter_tune
)
