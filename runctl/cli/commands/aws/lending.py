"""The permission to use an existing instance, as commands give it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from runctl.cli.commands.aws.machines import KNOWN_WITHIN, wait
from runctl.cli.commands.aws.option_values import read_duration
from runctl.model.errors import InvalidRequestError, Problem, RequestError
from runctl.model.identity import EXISTING_TAG
from runctl.model.lending import Lending, read_lending

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.machine import Machine

# Enough to build an image first. A run that has started may finish.
LEND_FOR = "1h"
MAX_LENDING = timedelta(days=30)


def lending_time(option: str, text: str) -> timedelta:
    """Return for how long to lend a machine; raises InvalidRequestError with the rule."""
    lasting = timedelta(seconds=read_duration(option, text))
    if not timedelta() < lasting <= MAX_LENDING:
        message = f"{text!r} is not a duration above 0 and up to {MAX_LENDING.days}d"
        raise InvalidRequestError((Problem(option, message),))
    return lasting


def lend_machine(
    cloud: Cloud, machine: Machine, *, lasting: timedelta, may_shorten: bool = False
) -> Machine:
    """Lend a machine to the deployment, unless it is lent for longer; return it with its tag."""
    now = datetime.now(timezone.utc)
    until = now + lasting
    known = read_lending(machine)
    if known is not None and known.until > now:
        if known.deployment != cloud.deployment.name:
            raise RequestError(
                f"{machine.instance_id} is lent to the deployment {known.deployment} until "
                f"{known.until:%Y-%m-%d %H:%M} UTC; use it from there (RUNCTL_DEPLOYMENT="
                f"{known.deployment}), or end that: `runctl aws lend {machine.instance_id} --end`"
            )
        if known.until >= until and not may_shorten:
            return machine
    lending = Lending(deployment=cloud.deployment.name, until=until, owner=cloud.caller_arn)
    cloud.existing_instances.lend(machine.instance_id, lending)

    def is_visible() -> bool:
        shown = cloud.fleet.describe([machine.instance_id])
        return any(each.tags.get(EXISTING_TAG) == lending.value for each in shown)

    # The functions read the tag, too. They wait if they do not see it yet.
    wait(cloud, is_visible, within=KNOWN_WITHIN)
    return replace(machine, tags={**machine.tags, EXISTING_TAG: lending.value})
