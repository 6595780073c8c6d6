"""`runctl aws train-distributed`: start a run of several nodes that train together."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from runctl.cli.commands.aws.field_options import field_parameters
from runctl.cli.commands.aws.job_options import Spot, market_of
from runctl.cli.commands.aws.train import OWN_PARAMETERS, train
from runctl.cli.invocation import Invocation


def train_distributed(
    invocation: Invocation,
    named_script: Annotated[
        str,
        typer.Option(
            "--script",
            metavar="SCRIPT",
            help="The program, in place of the argument SCRIPT; then all arguments are passed to "
            "it, after `--` if they begin with a dash.",
        ),
    ] = "",
    instance_type: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="An instance type; repeatable, like --instance-types."),
    ] = None,
    spot: Spot = False,
    **options: Any,
) -> None:
    """Train on several nodes (a gang): launched together, repaired when one of them is lost.

    Each node runs SCRIPT with torchrun, so that torch.distributed finds the others. --nodes says
    how many there are, here or in .runctl.toml. Options of runctl precede SCRIPT; everything after
    it is passed to the program. Ctrl-C ends the command, not the run.
    """
    from runctl.cli.commands.aws.start_run import locate
    from runctl.model.errors import InvalidRequestError, Problem

    if named_script and options["is_command"]:
        problem = Problem("--script", "mutually exclusive with --command; give one of them")
        raise InvalidRequestError((problem,))
    is_set = "nodes" in locate(invocation, options["project"]).settings.request
    if options["nodes"] is None and not is_set:
        message = "missing; give the number of nodes before SCRIPT, such as --nodes 4"
        raise InvalidRequestError((Problem("--nodes", message),))
    if named_script:
        first = [options["script"]] if options["script"] else []
        options |= {"script": named_script, "args": [*first, *(options["args"] or ())]}
    if instance_type:
        options["instance_types"] = [*(options["instance_types"] or ()), *instance_type]
    options["market"] = market_of(options["market"], spot=spot)
    train(invocation, **options)


# The options of this command, then those of a run on one machine and of the request's fields.
_FIRST, *_OWN, _ = inspect.signature(train_distributed, eval_str=True).parameters.values()
train_distributed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_FIRST, *_OWN, *OWN_PARAMETERS[1:], *field_parameters()]
)
