"""Lending: the tag by which the owner of a machine permits a deployment to use it, until when.

`deployment=NAME until=2026-11-30T18:00:00Z owner=ARN`: the deployment comes first, because the
roles of the functions require it by the beginning of the value. IAM cannot compare the instant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone

from runctl.model.identity import EXISTING_TAG
from runctl.model.machine import Machine

# Using_Tags.html: what every service accepts in the value of a tag.
_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9+\-=._:/@]")
_MAX_VALUE = 256
_LENT = re.compile(r"deployment=(\S+) until=(\S+)(?: owner=(\S*))?(?: .*)?")


@dataclass(frozen=True, kw_only=True)
class Lending:
    """To which deployment a machine is lent, until when, and by whom."""

    deployment: str
    until: datetime
    owner: str = ""

    @property
    def value(self) -> str:
        """The value of the tag. A long owner loses its beginning: an ARN ends with the name."""
        until = self.until.astimezone(timezone.utc)
        text = f"deployment={self.deployment} until={until:%Y-%m-%dT%H:%M:%SZ} owner="
        owner = _NOT_IN_TAGS.sub("_", self.owner)
        return text + owner[-(_MAX_VALUE - len(text)) :]


def read_lending(machine: Machine) -> Lending | None:
    """Return what the tag of a machine says; None without a tag, and for one without an end.

    Earlier versions wrote `yes`, which had no end: it counts as expired.
    """
    found = _LENT.fullmatch(machine.tags.get(EXISTING_TAG, ""))
    if found is None:
        return None
    try:
        until = datetime.fromisoformat(found[2].replace("Z", "+00:00"))
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return Lending(deployment=found[1], until=until, owner=found[3] or "")


def problem_with_lending(machine: Machine, *, deployment: str, now: datetime) -> str:
    """Return why a deployment may not start anything on an existing machine, with the remedy."""
    remedy = f"`runctl aws lend {machine.instance_id} --for 8h`"
    if EXISTING_TAG not in machine.tags:
        return f"is not lent to the deployment {deployment} (no tag {EXISTING_TAG}); use {remedy}"
    lending = read_lending(machine)
    if lending is None:
        value = machine.tags[EXISTING_TAG]
        return (
            f"was lent without an end, by an earlier version or by hand ({EXISTING_TAG}={value}), "
            f"which no longer counts; lend it again: {remedy}"
        )
    if lending.deployment != deployment:
        return (
            f"is lent to the deployment {lending.deployment}, not to {deployment}; use it from "
            f"there, or end that (`runctl aws lend {machine.instance_id} --end`) and use {remedy}"
        )
    if lending.until <= now:
        return (
            f"was lent until {lending.until:%Y-%m-%d %H:%M} UTC (by {lending.owner or 'unknown'}); "
            f"lend it again: {remedy}"
        )
    return ""
