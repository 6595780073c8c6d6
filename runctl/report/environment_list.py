"""The stored environments as facts for people: contents, size, last use, and the runs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from runctl.model.errors import DamagedCheckpointError
from runctl.model.stored_environment import StoredEnvironment
from runctl.policy.environments import EnvironmentObject, Stock, Traces, take_stock
from runctl.report.wording import format_size

_THREADS = 8
_SHORT = 12


class Catalog(Protocol):
    """The stored environments, as far as a list needs them."""

    def objects(self, prefix: str = "") -> list[EnvironmentObject]:
        """Return the objects below `environments/` whose further key has a prefix, by key."""
        ...

    def current(self, fingerprint: str) -> StoredEnvironment | None:
        """Return the environment that new runs use; DamagedCheckpointError if it is unreadable."""
        ...


@dataclass(frozen=True, kw_only=True)
class EnvironmentEntry:
    """A stored environment; `stored` is None if new runs do not use it any more."""

    fingerprint: str
    last_used: datetime
    runs: tuple[str, ...]
    stored: StoredEnvironment | None

    @property
    def short(self) -> str:
        """The beginning of the fingerprint, which names it for people."""
        return self.fingerprint[:_SHORT]

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        stored = self.stored
        return {
            "fingerprint": self.fingerprint,
            "last_used": self.last_used.isoformat(),
            "runs": list(self.runs),
            "is_current": stored is not None,
            "source": "" if stored is None else stored.source,
            "size_bytes": None if stored is None else stored.size_bytes,
            "python": "" if stored is None else stored.python,
            "platform": "" if stored is None else stored.platform,
            "packages": []
            if stored is None
            else [{"name": name, "version": version} for name, version in stored.packages],
        }


@dataclass(frozen=True, kw_only=True)
class EnvironmentList:
    """All stored environments, the most recently used first, and what S3 stores for them."""

    entries: tuple[EnvironmentEntry, ...]
    stored_bytes: int
    usd_per_month: float
    cost: str

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "environments": [entry.as_document() for entry in self.entries],
            "stored_bytes": self.stored_bytes,
            "usd_per_month": round(self.usd_per_month, 4),
        }


def read_environments(catalog: Catalog) -> EnvironmentList:
    """Read what is stored; an environment that was removed meanwhile has no contents."""
    stock = take_stock(catalog.objects())
    found = sorted(
        (traces for traces in stock.environments.values() if traces.keys),
        key=lambda traces: traces.last_used,
        reverse=True,
    )
    with ThreadPoolExecutor(_THREADS) as pool:
        stored = list(pool.map(lambda traces: _current(catalog, traces), found))
    return EnvironmentList(
        entries=_entries(found, stored),
        stored_bytes=stock.size_bytes,
        usd_per_month=stock.usd_per_month,
        cost=describe_cost(stock),
    )


def describe_cost(stock: Stock) -> str:
    """Return what environments occupy, and about what that costs."""
    own = sum(area.size_bytes for area in stock.areas.values())
    unshared = f" ({format_size(own)} of it for single runs or groups)" if own else ""
    return (
        f"{format_size(stock.size_bytes)} in S3{unshared}, "
        f"about ${stock.usd_per_month:.2f} a month "
        "(estimated with the price of S3 Standard in us-east-1)"
    )


def _entries(
    found: Sequence[Traces], stored: Sequence[StoredEnvironment | None]
) -> tuple[EnvironmentEntry, ...]:
    return tuple(
        EnvironmentEntry(
            fingerprint=traces.fingerprint,
            last_used=traces.last_used,
            runs=tuple(sorted(traces.used_by)),
            stored=current,
        )
        for traces, current in zip(found, stored, strict=True)
    )


def _current(catalog: Catalog, traces: Traces) -> StoredEnvironment | None:
    if not traces.is_current:
        return None
    try:
        return catalog.current(traces.fingerprint)
    except DamagedCheckpointError:
        return None
