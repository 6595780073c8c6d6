"""`runctl aws terminate`: terminate an instance that outlived a run."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from datetime import timedelta as span
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.aws.machines import find_machine, run_on
from runctl.cli.invocation import Invocation
from runctl.model.errors import RequestError
from runctl.model.identity import DEPLOYMENT_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.policy.billing import may_terminate

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud


Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="The instance's id: i-….")]


def terminate(
    invocation: Invocation,
    instance: Instance,
    force: Annotated[
        bool,
        typer.Option("--force", help="Though it is not runctl's, or a run works on it."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Do not ask; required where there is no terminal to ask."),
    ] = False,
) -> None:
    """End a machine that runctl launched; one that is gone already is fine."""
    cloud = invocation.cloud
    machine = find_machine(cloud, instance, within=span(seconds=3))
    if not machine.is_live:
        invocation.output.result(
            {"instance_id": instance, "state": machine.state}, f"{instance} is {machine.state}"
        )
        return
    if machine.is_foreign and not force:
        owner = machine.tags[DEPLOYMENT_TAG]
        raise RequestError(
            f"{instance} was launched by the deployment {owner}, and this command uses "
            f"{cloud.deployment.name}; set RUNCTL_DEPLOYMENT={owner}, or give --force"
        )
    if not force and not {RUN_TAG, KEEP_ALIVE_TAG} & set(machine.tags):
        raise RequestError(
            f"{instance} was not launched by runctl (no tag {KEEP_ALIVE_TAG} or {RUN_TAG}); "
            "--force ends it all the same"
        )
    if (busy := run_on(cloud, instance)) and not force:
        raise RequestError(
            f"{instance} works on attempt {busy[1]} of the run {busy[0]}; stop that first with "
            f"`runctl stop {busy[0]}`, or give --force: the run then goes on elsewhere"
        )
    _warn_of_the_first_hour(invocation, cloud, instance)
    if not yes:
        _ask(instance)
    cloud.fleet.terminate([instance])
    invocation.output.result(
        {"instance_id": instance, "state": "shutting-down"}, f"{instance} is ending"
    )


def _warn_of_the_first_hour(invocation: Invocation, cloud: Cloud, instance: str) -> None:
    owner = cloud.ledger.find_instance(instance)
    attempt = cloud.ledger.find_attempt(*owner) if owner else None
    (machine,) = cloud.fleet.describe([instance])
    if attempt is not None and not may_terminate(
        launched_at=machine.launched_at,
        noticed_at=attempt.noticed_at,
        now=datetime.now(timezone.utc),
    ):
        invocation.output.tell(
            f"EC2 is taking {instance} in its first hour and would charge nothing for it; "
            "ending it yourself costs its time"
        )


def _ask(instance: str) -> None:
    if not sys.stdin.isatty():
        raise RequestError(f"--yes is missing: nobody is there to ask whether {instance} may end")
    if not typer.confirm(f"End {instance}?", err=True):
        raise typer.Abort
