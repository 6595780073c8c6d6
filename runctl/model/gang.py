"""What the nodes of a gang report to each other through the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runctl.model.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class RankPulse:
    """The signs of life of one process of a node, as the trainer's helper gives them.

    `entered` and `left` count the agreements of all ranks (one for each step) that it has begun and
    ended; a rank that waits for others in one has entered more than it has left. `busy_seconds` is
    the time that it has computed since it began, without its waits for others, and `idle_seconds`
    the time since either count changed. `still_seconds` is the time since its processes last used a
    processor or a disk, and `is_suspended` says that they were stopped by a signal. `has_joined`
    says that it has a connection to the rendezvous.
    """

    entered: int = 0
    left: int = 0
    busy_seconds: float = 0.0
    idle_seconds: float = 0.0
    has_joined: bool = False
    still_seconds: float = 0.0
    is_suspended: bool = False

    def as_document(self) -> list[Any]:
        """Return the JSON form, which is short: a gang may have hundreds of ranks."""
        return [
            self.entered,
            self.left,
            round(self.busy_seconds, 2),
            round(self.idle_seconds, 1),
            int(self.has_joined),
            round(self.still_seconds, 1),
            int(self.is_suspended),
        ]

    @classmethod
    def from_document(cls, document: Any) -> "RankPulse":
        """Read the JSON form; what cannot be read is 0."""
        values = [*document, *[0] * 7] if isinstance(document, Sequence) else [0] * 7
        numbers = [value if isinstance(value, int | float) else 0 for value in values[:7]]
        return cls(
            entered=int(numbers[0]),
            left=int(numbers[1]),
            busy_seconds=float(numbers[2]),
            idle_seconds=float(numbers[3]),
            has_joined=bool(numbers[4]),
            still_seconds=float(numbers[5]),
            is_suspended=bool(numbers[6]),
        )


@dataclass(frozen=True, kw_only=True)
class NodeEnd:
    """How the program of a node has ended, and whether everything that it left is stored.

    `outcome` is what its agent would report if there were no other nodes; its `lost_ranks` are the
    nodes that it was ended for, itself included. `was_stopped` says that its agent has ended the
    program; otherwise that exited by itself.
    """

    at: datetime
    outcome: Outcome
    was_stopped: bool = False
    is_stored: bool = False

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "at": self.at.isoformat(),
            "outcome": self.outcome.as_document(),
            "was_stopped": self.was_stopped,
            "is_stored": self.is_stored,
        }

    @classmethod
    def from_document(cls, document: Any) -> "NodeEnd | None":
        """Read the JSON form; None if another version wrote something else."""
        try:
            at = datetime.fromisoformat(document["at"])
            if at.tzinfo is None:
                return None
            return cls(
                at=at,
                outcome=Outcome.from_stored(document["outcome"]),
                was_stopped=document.get("was_stopped") is True,
                is_stored=document.get("is_stored") is True,
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, kw_only=True)
class GangReport:
    """The report of a node of a gang about itself.

    `address` is its private IPv4 address, and `port` a free port on which its rank 0 would offer
    the rendezvous; that of the node of rank 0 counts. `is_ready` says that it has prepared and
    restored everything and waits for the others. `processes` is the number of its ranks.
    `prints` has digests of what has to be equal on all nodes (code, environment, image). `ranks`
    are its processes by local rank. `files` is the number of files in its checkpoint folder, and
    `part` the key of the manifest of what it has stored of them last, empty for nothing;
    `part_step` is the step of that part. `ended` is how its program has ended, None while it runs.
    """

    address: str = ""
    port: int = 0
    is_ready: bool = False
    processes: int = 0
    prints: Mapping[str, str] = field(default_factory=dict)
    ranks: tuple[RankPulse, ...] = ()
    files: int = 0
    part: str = ""
    part_step: int | None = None
    ended: NodeEnd | None = None

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "address": self.address,
            "port": self.port,
            "is_ready": self.is_ready,
            "processes": self.processes,
            "prints": dict(self.prints),
            "ranks": [rank.as_document() for rank in self.ranks],
            "files": self.files,
            "part": self.part,
            "part_step": self.part_step,
            "ended": None if self.ended is None else self.ended.as_document(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "GangReport | None":
        """Read the JSON form; None without one, and defaults for what cannot be read."""
        if not document:
            return None
        prints, ranks = document.get("prints"), document.get("ranks")
        step = document.get("part_step")
        return cls(
            address=str(document.get("address", "")),
            port=_whole(document.get("port")),
            is_ready=document.get("is_ready") is True,
            processes=_whole(document.get("processes")),
            prints={str(name): str(text) for name, text in prints.items()}
            if isinstance(prints, Mapping)
            else {},
            ranks=tuple(map(RankPulse.from_document, ranks)) if isinstance(ranks, list) else (),
            files=_whole(document.get("files")),
            part=str(document.get("part", "")),
            part_step=step if type(step) is int else None,
            ended=NodeEnd.from_document(document.get("ended")),
        )


def _whole(value: Any) -> int:
    return value if type(value) is int else 0
