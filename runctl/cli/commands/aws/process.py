"""`runctl aws process`: call a script for each shard of an input in S3, and follow the run."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from runctl.cli.commands.aws.field_options import field_parameters
from runctl.cli.commands.aws.job_options import DryRun, NoDocker, Project, UseDocker
from runctl.cli.invocation import Invocation
from runctl.model.kinds import PROCESS

# The options of fields that such a run does not have.
_LEFT_OUT = frozenset({"input", "checkpoint_dir"})


def process(
    invocation: Invocation,
    script: Annotated[
        str,
        typer.Argument(
            help="The program: a path in the project, or the S3 URI of one file. It is called once "
            "for each shard, with RUNCTL_INPUT_DIR, RUNCTL_OUTPUT_DIR, RUNCTL_SHARD and "
            "RUNCTL_SHARDS. An instance id before it names an existing instance for the first "
            "attempt.",
            show_default=False,
        ),
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of the program, after --: SCRIPT … -- --size 256."),
    ] = None,
    is_command: Annotated[
        bool,
        typer.Option("--command", help="Treat SCRIPT and its arguments as a command."),
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
    use_docker: UseDocker = False,
    no_docker: NoDocker = False,
    **fields: Any,
) -> None:
    """Process data in S3: split an input into shards, and call a script for each of them.

    Options of runctl precede SCRIPT or follow it, and the program gets none of them; after -- are
    its own arguments. Ctrl-C ends the command, not the run.
    """
    # The help page needs neither the SDK nor Rich.
    from runctl.cli.commands.aws.docker_choice import DockerChoice
    from runctl.cli.commands.aws.start_run import Start, start_run

    start = Start(
        words=(script, *(args or ())),
        is_command=is_command,
        name=name,
        project=project,
        detach=detach,
        dry_run=dry_run,
        docker=DockerChoice(use=use_docker, avoid=no_docker),
        kind=PROCESS,
    )
    start_run(invocation, start, fields)


def _with_field_options(function: Any) -> inspect.Signature:
    """Return a function's signature with the options of the table in place of its `**fields`."""
    *own, _ = inspect.signature(function, eval_str=True).parameters.values()
    offered = [each for each in field_parameters(kind=PROCESS) if each.name not in _LEFT_OUT]
    return inspect.Signature([*own, *offered])


process.__signature__ = _with_field_options(process)  # type: ignore[attr-defined]
