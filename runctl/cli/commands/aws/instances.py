"""`runctl aws create` and `terminate`: machines that outlive a run."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.aws.spot_monitor import spot_monitor
from runctl.cli.invocation import Invocation, command
from runctl.model.errors import (
    CapacityUnavailableError,
    NotFoundError,
    Problem,
    RequestError,
    TransientError,
)
from runctl.model.errors import InvalidRequestError as InvalidError

if TYPE_CHECKING:
    from runctl.aws.fleet import Ec2Fleet
    from runctl.cli.cloud import Cloud
    from runctl.model.pool import Pool

KEEP_ALIVE_HOURS = 8.0
MOST_HOURS = 24 * 14

Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="The instance's id: i-….")]


def add_to(app: typer.Typer) -> None:
    """Register the commands below `runctl aws`."""
    command(app, "create")(create)
    command(app, "terminate")(terminate)
    command(app, "spot-monitor")(spot_monitor)


def create(
    invocation: Invocation,
    spot: Annotated[
        bool, typer.Option("--spot", help="Buy spot capacity (default: on-demand).")
    ] = False,
    instance_type: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPES", help="What may be launched; repeat, or put commas between."),
    ] = None,
    keep_alive: Annotated[
        float,
        typer.Option(metavar="HOURS", help="When to end it, counted from now."),
    ] = KEEP_ALIVE_HOURS,
    name: Annotated[str, typer.Option(metavar="NAME", help="Its Name tag.")] = "runctl",
    output: Annotated[
        str, typer.Option(metavar="WHAT", help="instance-id: print the id and nothing else.")
    ] = "",
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until commands reach it.")
    ] = False,
) -> None:
    """Launch a machine that waits for runs, and ends itself when nobody needs it any more."""
    from runctl.aws.instances import creation_request
    from runctl.cli.commands.aws.creating import on_record
    from runctl.cli.commands.aws.machines import wait_for_registration
    from runctl.cli.commands.aws.request import split_types
    from runctl.model.request import DEFAULT_INSTANCE_TYPES
    from runctl.policy.images import problem_with_images

    types = split_types(instance_type) if instance_type else list(DEFAULT_INSTANCE_TYPES)
    _check(types, keep_alive, output)
    cloud = invocation.cloud
    if problem := problem_with_images(types, own_images=cloud.fleet.own_images):
        raise InvalidError((Problem("--instance-type", problem),))
    fleet = _fleet(cloud)
    market = "spot" if spot else "on-demand"

    def ask() -> dict[str, str]:
        until = datetime.now(timezone.utc) + timedelta(hours=keep_alive)
        pools = _pools(types, fleet.zones(), market)
        token = f"created-{secrets.token_hex(12)}"
        return {
            "request": creation_request(fleet, pools, token=token, name=name, keep_until=until),
            "keep_until": until.isoformat(),
        }

    wish = json.dumps([asdict(cloud.deployment), types, market, keep_alive, name], sort_keys=True)
    with on_record(wish, ask) as (asked, is_repeat):
        if is_repeat:
            invocation.output.tell("an earlier command had no answer: asking for its machine again")
        instance_id, pool = _launch(fleet, asked["request"])
    keep_until = datetime.fromisoformat(asked["keep_until"])
    told = f"{instance_id} ({pool}) is launched; it lives until {keep_until:%Y-%m-%d %H:%M} UTC"
    invocation.output.tell(told)
    if not no_wait:
        try:
            wait_for_registration(invocation, cloud, instance_id)
        except KeyboardInterrupt:
            invocation.output.tell(f"{instance_id} goes on; end it with `runctl aws terminate`")
            raise
    document = {
        "instance_id": instance_id,
        "pool": str(pool),
        "keep_alive_until": keep_until.isoformat(timespec="seconds"),
        "is_registered": not no_wait,
    }
    following = f"next: runctl aws train {instance_id} SCRIPT{invocation.flag}"
    invocation.output.result(document, instance_id if output else f"{instance_id}\n{following}")


def _check(types: list[str], keep_alive: float, output: str) -> None:
    from runctl.model.request_fields import FIELDS

    problems = []
    if problem := FIELDS["instance_types"].check(types):
        problems.append(Problem("--instance-type", problem))
    if not 0 < keep_alive <= MOST_HOURS:
        problems.append(
            Problem("--keep-alive", f"{keep_alive} is not between 0 and {MOST_HOURS} hours")
        )
    if output not in {"", "instance-id"}:
        problems.append(Problem("--output", f"{output!r} is not instance-id"))
    if problems:
        raise InvalidError(tuple(problems))


def _fleet(cloud: Cloud) -> Ec2Fleet:
    from runctl.aws.fleet import Ec2Fleet, LaunchTemplate
    from runctl.model.pool import MachineKind

    if not cloud.deployment.subnets:
        raise NotFoundError(
            f"the deployment in {cloud.deployment.region} is too old for this; run `cdk deploy`"
        )
    templates = {
        MachineKind(kind): LaunchTemplate(template_id=one, version="$Latest")
        for kind, one in cloud.deployment.launch_templates.items()
    }
    return Ec2Fleet(
        cloud.clients.get("ec2"),
        deployment=cloud.deployment.name,
        subnets=cloud.deployment.subnets,
        launch_templates=templates,
    )


def _pools(types: list[str], zones: tuple[str, ...], market: str) -> tuple[Pool, ...]:
    from runctl.policy.capacity import candidate_pools

    return candidate_pools(types, zones, market=market, launch_try=1)


def _launch(fleet: Ec2Fleet, request: str) -> tuple[str, Pool | None]:
    from runctl.model.refusal import kind_of

    result = fleet.launch(request)
    if not result.instance_ids:
        told = "; ".join(f"{pool}: {code}" for pool, code in result.refusals.items())
        if not result.was_answered and not any(
            kind_of(code).is_answer for code in result.refusals.values()
        ):
            # The same request may be sent again: it is kept for a repeated command.
            raise TransientError(f"EC2 gave no answer: {told}. Try again")
        raise CapacityUnavailableError(
            f"no pool has capacity now: {told}. Name other types, try again later, or try "
            "the other market"
        )
    return result.instance_ids[0], result.pool


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
    from datetime import timedelta as span

    from runctl.cli.commands.aws.machines import find_machine, run_on
    from runctl.model.identity import DEPLOYMENT_TAG, KEEP_ALIVE_TAG, RUN_TAG

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
    from runctl.policy.billing import may_terminate

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
