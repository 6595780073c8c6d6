"""`runctl aws serve`: start a service, and follow it."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from runctl.cli.commands.aws.field_options import field_parameters
from runctl.cli.commands.aws.job_options import DryRun, LendFor, NoDocker, Project, UseDocker
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.kinds import SERVE


def serve(
    invocation: Invocation,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INSTANCE_ID] [ARGS]...",
            help="An existing instance for the first attempt, if there is one; then arguments for "
            "the server, after `--` if they begin with a dash.",
            show_default=False,
        ),
    ] = None,
    script: Annotated[
        str,
        typer.Option(
            metavar="SCRIPT",
            help="The server: a script of the project that starts it, which gets --port and "
            "--checkpoint. Without one, ARGS are a command; without ARGS, the command of the "
            "image runs.",
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="The service's name (default: the script's name, the time and 4 digits).",
        ),
    ] = "",
    project: Project = "",
    detach: Annotated[bool, typer.Option("--detach", help="Start the service and return.")] = False,
    dry_run: DryRun = False,
    lend_for: LendFor = "1h",
    use_docker: UseDocker = False,
    no_docker: NoDocker = False,
    **fields: Any,
) -> None:
    """Run an HTTP server on EC2: restarted when it fails, replaced before an interruption.

    The server has no public port; `runctl aws connect` reaches it. Ctrl-C ends the command, not
    the service.
    """
    # The help page needs neither the SDK nor Rich.
    from runctl.cli.commands.aws.docker_choice import DockerChoice
    from runctl.cli.commands.aws.start_run import Start, split_instance, start_run

    instance_id, args = split_instance(tuple(words or ()))
    if args and not script and args[0].endswith(".py"):
        raise InvalidRequestError((Problem("--script", f"missing; give --script {args[0]}"),))
    start = Start(
        words=tuple(filter(None, (instance_id, script, *args))),
        is_command=not script and bool(args),
        name=name,
        project=project,
        detach=detach,
        dry_run=dry_run,
        docker=DockerChoice(use=use_docker, avoid=no_docker),
        kind=SERVE,
        lend_for=lend_for,
    )
    start_run(invocation, start, fields)


def _with_field_options(function: Any) -> inspect.Signature:
    """Return a function's signature with the options of the table in place of its `**fields`."""
    *own, _ = inspect.signature(function, eval_str=True).parameters.values()
    return inspect.Signature([*own, *field_parameters(kind=SERVE)])


serve.__signature__ = _with_field_options(serve)  # type: ignore[attr-defined]
