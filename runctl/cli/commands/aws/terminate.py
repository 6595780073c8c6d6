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
        typer.Option(
            "--force", help="Terminate it even if runctl did not launch it, or a run uses it."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask for confirmation; required without a terminal."
        ),
    ] = False,
) -> None:
    """Terminate an instance that runctl launched."""
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
            f"{instance} was launched by the deployment {owner}, but this command uses "
            f"{cloud.deployment.name}; set RUNCTL_DEPLOYMENT={owner}, or add --force"
        )
    if not force and not {RUN_TAG, KEEP_ALIVE_TAG} & set(machine.tags):
        raise RequestError(
            f"{instance} was not launched by runctl (no tag {KEEP_ALIVE_TAG} or {RUN_TAG}); "
            "to terminate it anyway, add --force"
        )
    if (busy := run_on(cloud, instance)) and not force:
        raise RequestError(
            f"{instance} runs attempt {busy.attempt} of {busy.run_id}; stop the run with "
            f"`runctl stop {busy.run_id}`, or add --force, after which it continues elsewhere"
        )
    _warn_of_the_first_hour(invocation, cloud, instance)
    if not yes:
        _ask(instance)
    cloud.fleet.terminate([instance])
    invocation.output.result(
        {"instance_id": instance, "state": "shutting-down"}, f"terminating {instance}"
    )


def _warn_of_the_first_hour(invocation: Invocation, cloud: Cloud, instance: str) -> None:
    owner = cloud.ledger.find_instance(instance)
    attempt = cloud.ledger.find_attempt(owner.run_id, owner.attempt) if owner else None
    (machine,) = cloud.fleet.describe([instance])
    if attempt is not None and not may_terminate(
        launched_at=machine.launched_at,
        noticed_at=attempt.noticed_at_on(instance),
        now=datetime.now(timezone.utc),
    ):
        invocation.output.note(
            f"EC2 is interrupting {instance} in its first hour, which is free of charge; if you "
            "terminate it yourself, its time is charged"
        )


def _ask(instance: str) -> None:
    if not sys.stdin.isatty():
        raise RequestError(f"--yes: required without a terminal to confirm that {instance} may end")
    if not typer.confirm(f"Terminate {instance}?", err=True):
        raise typer.Abort
