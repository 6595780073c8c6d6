"""How an attempt ended: the fact that is stored, and everything derived from it."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from runctl.model.errors import RequestError
from runctl.model.excerpt import shorten_reason


class OutcomeKind(str, Enum):
    """The six ways in which an attempt ends."""

    COMPLETED = "completed"  # the trainer exited 0 by itself
    FAILED = "failed"  # the trainer exited otherwise, or could not be started
    INTERRUPTED = "interrupted"  # EC2 took, or is taking, the instance
    LOST = "lost"  # silence: no heartbeat, or gone without a report
    NO_CAPACITY = "no_capacity"  # nothing could be launched
    STOPPED = "stopped"  # the user asked for it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One attempt's end.

    `reason` is one sentence for a person, shortened to `MAX_REASON`. `exit_code` is the trainer's,
    negative for the signal that ended it. `step` is the newest committed step at that time.
    """

    kind: OutcomeKind
    reason: str = ""
    exit_code: int | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", shorten_reason(self.reason))

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form; fields that are None are left out."""
        document: dict[str, Any] = {"kind": self.kind.value, "reason": self.reason}
        if self.exit_code is not None:
            document["exit_code"] = self.exit_code
        if self.step is not None:
            document["step"] = self.step
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Outcome":
        """Read the JSON form; unknown fields of a newer peer are ignored.

        Raises RequestError when the kind is none of the six.
        """
        try:
            kind = OutcomeKind(document.get("kind"))
        except ValueError as exc:
            raise RequestError(f"outcome.kind: {document.get('kind')!r} is no outcome") from exc
        exit_code, step = document.get("exit_code"), document.get("step")
        return cls(
            kind=kind,
            reason=str(document.get("reason", "")),
            exit_code=None if exit_code is None else int(exit_code),
            step=None if step is None else int(step),
        )


class RunStatus(str, Enum):
    """What a person is told about a run; derived, never stored."""

    PENDING = "pending"
    LAUNCHING = "launching"
    TRAINING = "training"
    RECOVERING = "recovering"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in FINAL


FINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.STOPPED})
