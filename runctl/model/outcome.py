"""The outcome of an attempt: the fact that is stored, and everything derived from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from runctl.model.errors import RequestError
from runctl.model.excerpt import shorten_reason
from runctl.model.failure import fingerprint


class OutcomeKind(str, Enum):
    """The ways in which an attempt ends."""

    COMPLETED = "completed"  # the trainer exited 0 by itself
    FAILED = "failed"  # the trainer exited otherwise, or could not be started
    INTERRUPTED = "interrupted"  # EC2 took, or is taking, the instance
    LOST = "lost"  # silence: no heartbeat, or gone without a report
    NO_CAPACITY = "no_capacity"  # nothing could be launched
    STOPPED = "stopped"  # the user asked for it
    UNKNOWN = "unknown"  # only read: a newer version stored a kind that this one does not know


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One attempt's end.

    `reason` is one sentence for a person, shortened to `MAX_REASON`. `exit_code` is the trainer's,
    negative for the signal that ended it. `step` and `save` are those of the newest checkpoint at
    that time. `fingerprint` identifies a failure whose `reason` says more than the trainer's last
    words do. `retry_soon` is set when nothing could be launched and a pool gave no answer: EC2
    throttled the request, failed, or said something that is not known. `retry_at` is when the next
    launch is planned after one that launched nothing. `is_disk_full` says that it ended because
    the disk of the instance was full, which the next attempt's is not if it is larger.
    `lost_ranks` are the nodes of a gang that it ended for: they went silent, hang or are too slow.
    """

    kind: OutcomeKind
    reason: str = ""
    exit_code: int | None = None
    step: int | None = None
    save: int | None = None
    fingerprint: str = ""
    retry_soon: bool = False
    retry_at: datetime | None = None
    is_disk_full: bool = False
    lost_ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", shorten_reason(self.reason))

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form; fields that are None are left out."""
        document: dict[str, Any] = {"kind": self.kind.value, "reason": self.reason}
        if self.exit_code is not None:
            document["exit_code"] = self.exit_code
        if self.step is not None:
            document["step"] = self.step
        if self.save is not None:
            document["save"] = self.save
        if self.fingerprint:
            document["fingerprint"] = self.fingerprint
        if self.retry_soon:
            document["retry_soon"] = True
        if self.retry_at is not None:
            document["retry_at"] = self.retry_at.isoformat()
        if self.is_disk_full:
            document["is_disk_full"] = True
        if self.lost_ranks:
            document["lost_ranks"] = list(self.lost_ranks)
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Outcome":
        """Read the JSON form of a report; unknown fields of a newer peer are ignored.

        Raises RequestError when the kind is not one that an attempt can end with.
        """
        outcome = cls.from_stored(document)
        if outcome.kind is OutcomeKind.UNKNOWN:
            raise RequestError(f"outcome.kind: {document.get('kind')!r} is not a valid outcome")
        return outcome

    @classmethod
    def from_stored(cls, document: Mapping[str, Any]) -> "Outcome":
        """Read what the ledger holds, whichever version wrote it; never raises."""
        try:
            kind = OutcomeKind(document.get("kind"))
        except ValueError:
            kind = OutcomeKind.UNKNOWN
        return cls(
            kind=kind,
            reason=str(document.get("reason", "")),
            exit_code=_whole(document.get("exit_code")),
            step=_whole(document.get("step")),
            save=_whole(document.get("save")),
            fingerprint=str(document.get("fingerprint", "")),
            retry_soon=document.get("retry_soon") is True,
            retry_at=_instant(document.get("retry_at")),
            is_disk_full=document.get("is_disk_full") is True,
            lost_ranks=_ranks(document.get("lost_ranks")),
        )

    @property
    def failure_id(self) -> str:
        """The same for two failures with the same exit code and, numbers aside, the same words."""
        return self.fingerprint or fingerprint(self.exit_code, self.reason)


def _whole(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        return None


def _ranks(value: Any) -> tuple[int, ...]:
    ranks = value if isinstance(value, list) else []
    return tuple(rank for rank in ranks if type(rank) is int)


def _instant(value: Any) -> datetime | None:
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else None


class RunStatus(str, Enum):
    """The status of a run as people see it; derived, never stored."""

    PENDING = "pending"
    LAUNCHING = "launching"
    RUNNING = "running"
    RECOVERING = "recovering"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    UNKNOWN = "unknown"  # only read: a newer version ended it in a way that this one does not know

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in FINAL


FINAL = frozenset(
    {
        RunStatus.COMPLETED,
        RunStatus.FAILED,
        RunStatus.INTERRUPTED,
        RunStatus.STOPPED,
        RunStatus.UNKNOWN,
    }
)


def is_own_failure(ended: Outcome | None) -> bool:
    """Whether an attempt ended because its trainer did, with an exit code that is not 0."""
    return ended is not None and ended.kind is OutcomeKind.FAILED and bool(ended.exit_code)
