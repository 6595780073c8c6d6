"""Leftovers in an account besides machines: fleets, disks, unfinished uploads."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class InstantFleet:
    """A fleet as EC2 keeps it: it launches once, and counts against a quota until it is deleted.

    `state` is the name that EC2 gives; `run_id` and `attempt` are its tags. `instance_ids` are all
    that it launched, including those that have ended.
    """

    fleet_id: str
    run_id: str
    attempt: int | None
    state: str
    created_at: datetime | None
    instance_ids: tuple[str, ...] = ()

    @property
    def is_deleted(self) -> bool:
        """Whether it was deleted; EC2 still shows it for a while."""
        return self.state.startswith("deleted")


@dataclass(frozen=True, kw_only=True)
class Disk:
    """An EBS volume that a launch of ours tagged; `state` is the name that EC2 gives."""

    volume_id: str
    run_id: str
    attempt: int | None
    state: str
    size_gib: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class UnfinishedUpload:
    """A multipart upload that was begun and not completed; its parts are billed, but not listed."""

    key: str
    upload_id: str
    begun_at: datetime

    @property
    def run_id(self) -> str:
        """The run below whose prefix it is, empty for none."""
        first, _, rest = self.key.partition("/")
        return rest.partition("/")[0] if first == "runs" else ""
