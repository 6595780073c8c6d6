"""`runctl aws create`: launch an instance that outlives a run."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.aws.fleet import Ec2Fleet
from runctl.aws.instances import creation_request
from runctl.cli.commands.aws.creating import replayable
from runctl.cli.commands.aws.machines import wait_for_registration
from runctl.cli.commands.aws.option_values import split_commas
from runctl.cli.invocation import Invocation
from runctl.model.errors import CapacityUnavailableError, NotFoundError, Problem, TransientError
from runctl.model.errors import InvalidRequestError as InvalidError
from runctl.model.instance_types import check_instance_types
from runctl.model.refusal import kind_of
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES
from runctl.policy.capacity import candidate_pools
from runctl.policy.images import problem_with_images

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.pool import Pool


KEEP_ALIVE_HOURS = 8.0
MAX_KEEP_ALIVE_HOURS = 24 * 14


def create(
    invocation: Invocation,
    spot: Annotated[
        bool, typer.Option("--spot", help="Launch a Spot Instance (default: On-Demand).")
    ] = False,
    instance_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPES", help="Instance types to choose from, separated by commas; repeatable."
        ),
    ] = None,
    keep_alive: Annotated[
        float,
        typer.Option(metavar="HOURS", help="Hours from now until the instance terminates itself."),
    ] = KEEP_ALIVE_HOURS,
    name: Annotated[str, typer.Option(metavar="NAME", help="The instance's Name tag.")] = "runctl",
    output: Annotated[
        str, typer.Option(metavar="WHAT", help="instance-id: print only the id.")
    ] = "",
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until the instance accepts commands.")
    ] = False,
) -> None:
    """Launch an instance that waits for runs, and terminates itself when its time is up."""
    types = split_commas(instance_type) if instance_type else list(DEFAULT_INSTANCE_TYPES)
    _check(types, keep_alive, output)
    cloud = invocation.cloud
    if problem := problem_with_images(types, own_images=cloud.fleet.own_images):
        raise InvalidError((Problem("--instance-type", problem),))
    fleet = _fleet(cloud)
    market = "spot" if spot else "on-demand"

    def build() -> dict[str, str]:
        until = datetime.now(timezone.utc) + timedelta(hours=keep_alive)
        pools = _pools(types, fleet.zones(), market)
        token = f"created-{secrets.token_hex(12)}"
        return {
            "request": creation_request(
                fleet, pools, token=token, name=name, keep_until=until, owner=cloud.caller_arn
            ),
            "keep_until": until.isoformat(),
        }

    key = json.dumps([asdict(cloud.deployment), types, market, keep_alive, name], sort_keys=True)
    with replayable(key, build) as (asked, is_repeat):
        if is_repeat:
            invocation.output.note("repeating an earlier launch request that was not answered")
        instance_id, pool = _launch(fleet, asked["request"])
    keep_until = datetime.fromisoformat(asked["keep_until"])
    until = f"{keep_until:%Y-%m-%d %H:%M} UTC"
    invocation.output.note(f"launched {instance_id} ({pool}); it terminates itself at {until}")
    if not no_wait:
        _wait(invocation, cloud, instance_id)
    document = {
        "instance_id": instance_id,
        "pool": str(pool),
        "keep_alive_until": keep_until.isoformat(timespec="seconds"),
        "is_registered": not no_wait,
    }
    following = f"next: `runctl aws train {instance_id} SCRIPT`"
    invocation.output.result(document, instance_id if output else f"{instance_id}\n{following}")


def _wait(invocation: Invocation, cloud: Cloud, instance_id: str) -> None:
    try:
        wait_for_registration(invocation, cloud, instance_id)
    except KeyboardInterrupt:
        end = f"terminate it with `runctl aws terminate {instance_id}`"
        invocation.output.note(f"{instance_id} continues to run; {end}")
        raise


def _check(types: list[str], keep_alive: float, output: str) -> None:
    problems = []
    if problem := check_instance_types(types):
        problems.append(Problem("--instance-type", problem))
    if not 0 < keep_alive <= MAX_KEEP_ALIVE_HOURS:
        problems.append(
            Problem(
                "--keep-alive",
                f"{keep_alive} is not a number of hours above 0 and up to {MAX_KEEP_ALIVE_HOURS}",
            )
        )
    if output not in {"", "instance-id"}:
        problems.append(
            Problem("--output", f"{output!r} is not a valid output; known values: instance-id")
        )
    if problems:
        raise InvalidError(tuple(problems))


def _fleet(cloud: Cloud) -> Ec2Fleet:
    if not cloud.deployment.subnets:
        raise NotFoundError(
            f"the deployment in {cloud.deployment.region} is too old for this command; run "
            "`cdk deploy`"
        )
    return cloud.fleet


def _pools(types: list[str], zones: tuple[str, ...], market: str) -> tuple[Pool, ...]:
    return candidate_pools(types, zones, [market])


def _launch(fleet: Ec2Fleet, request: str) -> tuple[str, Pool | None]:
    result = fleet.launch(request)
    if not result.instance_ids:
        refusals = "; ".join(f"{pool}: {code}" for pool, code in result.refusals.items())
        if not result.was_answered and not any(
            kind_of(code).is_answer for code in result.refusals.values()
        ):
            # The request is kept, so that the next command repeats it.
            raise TransientError(f"EC2 did not answer: {refusals}. Try again")
        raise CapacityUnavailableError(
            f"no pool has capacity: {refusals}. Name other instance types, try again later, or "
            "try the other market"
        )
    return result.instance_ids[0], result.pool
