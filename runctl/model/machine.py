"""Machines as EC2 sees them, and the results of launches."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from runctl.model.identity import ATTEMPT_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.maintenance import ScheduledEvent
from runctl.model.pool import Pool


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """The result of CreateFleet: instances, or the refusal of each pool (EC2 error code).

    `market` is the one that was requested. Without a `fleet_id` EC2 refused the call, and would not
    give the same answer to a replay.
    """

    instance_ids: tuple[str, ...]
    pool: Pool | None
    refusals: Mapping[Pool, str]
    market: str
    fleet_id: str = ""

    @property
    def was_answered(self) -> bool:
        """Whether EC2 created the fleet, with or without instances, and repeats its answer."""
        return bool(self.fleet_id)


@dataclass(frozen=True, kw_only=True)
class MachineStatus:
    """The status checks of a running instance, and the events that EC2 has scheduled for it.

    `impaired` maps each failing check to the time since which it fails; None if that is unknown.
    """

    instance_id: str
    impaired: Mapping[str, datetime | None] = field(default_factory=dict)
    events: tuple[ScheduledEvent, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """An instance as EC2 sees it. `reason` is EC2's StateReason code, empty while it lives.

    `is_foreign` says that another deployment of this account launched it: a run that its tags name
    is then not the one of that name in our ledger.
    """

    instance_id: str
    state: str
    pool: Pool
    reason: str = ""
    launched_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    is_foreign: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it still runs, or will."""
        return self.state in {"pending", "running", "stopping", "stopped"}

    @property
    def was_reclaimed(self) -> bool:
        """Whether EC2 took it: Server.SpotInstanceTermination or Server.SpotInstanceShutdown."""
        return self.reason.startswith("Server.SpotInstance")

    def without_tag(self, key: str) -> "Machine":
        """Return the machine as it is once a tag has been removed."""
        tags = {name: value for name, value in self.tags.items() if name != key}
        return replace(self, tags=tags)

    @property
    def attempt(self) -> int | None:
        """The attempt that it was launched for, by its tag."""
        number = self.tags.get(ATTEMPT_TAG, "")
        return int(number) if number.isdecimal() else None

    @property
    def run_id(self) -> str:
        """The run that it was launched for, by its tag; empty for none."""
        return self.tags.get(RUN_TAG, "")

    @property
    def kept_until(self) -> datetime | None:
        """The instant until which its owner keeps it without a run, by its tag; None without a tag.

        A tag that cannot be read means forever: terminating a machine that somebody uses costs more
        than leaving it running.
        """
        text = self.tags.get(KEEP_ALIVE_TAG)
        if text is None:
            return None
        forever = datetime.max.replace(tzinfo=timezone.utc)
        try:
            instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            return forever
        return instant if instant.tzinfo else forever
