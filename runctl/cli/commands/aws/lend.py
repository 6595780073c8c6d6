"""`runctl aws lend`: show, set and end the permission to use an existing instance."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.commands.aws.lending import lend_machine, lending_time
from runctl.cli.commands.aws.machines import find_machine, run_on
from runctl.cli.invocation import Invocation
from runctl.control.use_existing_instance import problem_with
from runctl.model.errors import InvalidRequestError, Problem, RequestError
from runctl.model.identity import EXISTING_TAG
from runctl.model.lending import problem_with_lending, read_lending
from runctl.report.wording import instant_text

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.machine import Machine


def lend(
    invocation: Invocation,
    instance: Annotated[
        str,
        typer.Argument(
            metavar="[INSTANCE]",
            help="The instance's id: i-… (default: list all that are lent).",
            show_default=False,
        ),
    ] = "",
    lend_for: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="Let runs of this deployment start on it for so long, from now: 30m, 8h, 2d.",
        ),
    ] = "",
    end: Annotated[bool, typer.Option("--end", help="Let no more runs start on it.")] = False,
) -> None:
    """Show whether runs may start on an existing instance and until when; set or end that.

    A run that has started on it may finish. `runctl aws train INSTANCE` lends it for an hour, which
    is renewed by the next one.
    """
    problems = []
    if lend_for and end:
        problems.append(Problem("--end", "mutually exclusive with --for; give one of them"))
    if (lend_for or end) and not instance:
        problems.append(Problem("INSTANCE", "missing; name the instance to lend"))
    if problems:
        raise InvalidRequestError(tuple(problems))
    lasting = lending_time("--for", lend_for) if lend_for else None
    cloud = invocation.cloud
    if not instance:
        _list(invocation, cloud)
        return
    machine = find_machine(cloud, instance)
    if lasting is not None:
        if problem := problem_with(machine):
            raise RequestError(f"{instance} {problem}")
        machine = lend_machine(cloud, machine, lasting=lasting, may_shorten=True)
    elif end:
        machine = _end(invocation, cloud, machine)
    invocation.output.result(_document(cloud, machine), _line(cloud, machine))


def _list(invocation: Invocation, cloud: Cloud) -> None:
    machines = sorted(cloud.fleet.find_lent(), key=lambda machine: machine.instance_id)
    document = {"instances": [_document(cloud, machine) for machine in machines]}
    lines = [_line(cloud, machine) for machine in machines] or ["no instance is lent"]
    invocation.output.result(document, "\n".join(lines))


def _end(invocation: Invocation, cloud: Cloud, machine: Machine) -> Machine:
    cloud.existing_instances.end_lending(machine.instance_id)
    if busy := run_on(cloud, machine.instance_id):
        invocation.output.note(
            f"attempt {busy.attempt} of {busy.run_id} continues on {machine.instance_id}, and can "
            f"no longer be reached there; stop it with `runctl stop {busy.run_id}`"
        )
    return machine.without_tag(EXISTING_TAG)


def _document(cloud: Cloud, machine: Machine) -> dict[str, Any]:
    lending = read_lending(machine)
    now = datetime.now(timezone.utc)
    problem = problem_with_lending(machine, deployment=cloud.deployment.name, now=now)
    return {
        "instance_id": machine.instance_id,
        "is_usable": not problem,
        "deployment": lending.deployment if lending else None,
        "until": instant_text(lending.until) if lending else None,
        "owner": lending.owner if lending else None,
    }


def _line(cloud: Cloud, machine: Machine) -> str:
    now = datetime.now(timezone.utc)
    problem = problem_with_lending(machine, deployment=cloud.deployment.name, now=now)
    lending = read_lending(machine)
    if problem or lending is None:
        return f"{machine.instance_id} {problem}"
    return (
        f"{machine.instance_id} is lent to {lending.deployment} until "
        f"{lending.until:%Y-%m-%d %H:%M} UTC by {lending.owner or 'unknown'}"
    )
