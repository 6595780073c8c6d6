"""`runctl aws train`: build a job, pack and submit it, and follow the run."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from runctl.cli.commands.aws.field_options import field_parameters
from runctl.cli.commands.aws.job_options import DryRun, LendFor, NoDocker, Project
from runctl.cli.invocation import Invocation
from runctl.model.kinds import TRAIN


def train(
    invocation: Invocation,
    script: Annotated[
        str,
        typer.Argument(
            help="The program: a path in the project, or the S3 URI of one file. An instance id "
            "before it names an existing instance for the first attempt. With --command: any "
            "program, such as torchrun. Without SCRIPT, the command of the image runs.",
            show_default=False,
        ),
    ] = "",
    args: Annotated[
        list[str] | None, typer.Argument(help="Arguments after SCRIPT are passed to it.")
    ] = None,
    is_command: Annotated[
        bool,
        typer.Option(
            "--command",
            help="Treat SCRIPT and its arguments as a command that starts in the project's folder: "
            "--command torchrun --nproc-per-node 2 train.py.",
        ),
    ] = False,
    name: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="The run's name (default: the script's name, the time and 4 digits).",
        ),
    ] = "",
    project: Project = "",
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return.")] = False,
    dry_run: DryRun = False,
    lend_for: LendFor = "1h",
    use_docker: Annotated[
        bool,
        typer.Option(
            "--use-docker",
            help="Require a container: the project must have a Dockerfile. May follow SCRIPT.",
            rich_help_panel="Docker",
        ),
    ] = False,
    no_docker: NoDocker = False,
    build: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Where to build the image: cloud (default) or local, with the Docker of this "
            "machine.",
            rich_help_panel="Docker",
        ),
    ] = "cloud",
    no_push: Annotated[
        bool,
        typer.Option(
            "--no-push",
            help="With --build local: send the image to the instance without a registry.",
            rich_help_panel="Docker",
        ),
    ] = False,
    push_to: Annotated[
        str,
        typer.Option(
            metavar="REPOSITORY",
            help="With --build local: push there, for example to Docker Hub (default: the "
            "deployment's ECR).",
            rich_help_panel="Docker",
        ),
    ] = "",
    **fields: Any,
) -> None:
    """Train on EC2: pack the project, start a run, and follow it until it ends.

    Options of runctl precede SCRIPT; everything after it is passed to the program, except
    --use-docker and --docker-image. --checkpoint with --test-data, both in S3, makes the run an
    evaluation, and --input-s3 with --output-s3 makes it process data. Ctrl-C ends the command, not
    the run.
    """
    # The help page needs neither the SDK nor Rich.
    from runctl.cli.commands.aws.docker_choice import DockerChoice
    from runctl.cli.commands.aws.start_run import Start, start_run

    start = Start(
        words=(script, *(args or ())) if script else (),
        is_command=is_command,
        name=name,
        project=project,
        detach=detach,
        dry_run=dry_run,
        docker=DockerChoice(
            use=use_docker, avoid=no_docker, build=build, no_push=no_push, push_to=push_to
        ),
        kind=fields.pop("kind", TRAIN),
        lend_for=lend_for,
    )
    start_run(invocation, start, fields)


# The parameters of every command that starts a run, without the options of request fields.
*OWN_PARAMETERS, _ = inspect.signature(train, eval_str=True).parameters.values()
train.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*OWN_PARAMETERS, *field_parameters()]
)
