"""Stored environments: which of them, and which parts, nothing needs any more. Pure."""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from runctl.model.identity import ENVIRONMENT_PARTS, ENVIRONMENTS, OWN_ENVIRONMENTS

# A commit relies on parts that it found, before a manifest names them; a slow one takes hours.
MARGIN = timedelta(days=3)
# The price of S3 Standard in us-east-1, in USD for 10^9 bytes and month, without requests.
USD_PER_GB_MONTH = 0.023

_OWN = re.compile(r"(?P<kind>current|manifests|uses)/(?P<fingerprint>[0-9a-f]{64})(/(?P<name>.+))?")
_RUN = re.compile(r"runs/(?P<run>[^/]+)/(?P<rest>.+/)?(?P<fingerprint>[0-9a-f]{64})\.json")
_AREA = re.compile(r"(?P<area>[^/]+)/(runs/(?P<run>[^/]+)/)?.+")
# What earlier versions stored: one archive for each environment.
_ARCHIVE = re.compile(r"[0-9a-f]{64}\.tar\.gz")


@dataclass(frozen=True, kw_only=True)
class EnvironmentObject:
    """An object as the store lists it."""

    key: str
    size_bytes: int
    stored_at: datetime


@dataclass(kw_only=True)
class Traces:
    """What is stored of one environment besides its parts.

    `manifests` are the digests of its manifests. `last_used` is when the newest of its objects was
    stored: every day of use leaves one. `used_by` are the runs that recorded it.
    """

    fingerprint: str
    last_used: datetime
    is_current: bool = False
    manifests: list[str] = field(default_factory=list)
    used_by: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)
    record_keys: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Area:
    """What is stored for a run that shares no environments, or for the runs of a group.

    `name` is that of the run or the group; `runs` are those that recorded an environment.
    """

    name: str
    last_used: datetime
    runs: set[str] = field(default_factory=set)
    objects: list[EnvironmentObject] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """The sum of the sizes."""
        return sum(each.size_bytes for each in self.objects)


@dataclass(frozen=True, kw_only=True)
class Stock:
    """All objects of environments: by environment, the parts that they share, and old archives.

    `areas` are the environments of runs that share none.
    """

    environments: Mapping[str, Traces]
    areas: Mapping[str, Area]
    parts: tuple[EnvironmentObject, ...]
    archives: tuple[EnvironmentObject, ...]
    size_bytes: int

    @property
    def usd_per_month(self) -> float:
        """What the objects cost by the month, estimated."""
        return self.size_bytes / 1e9 * USD_PER_GB_MONTH


def take_stock(objects: Iterable[EnvironmentObject]) -> Stock:
    """Sort the objects below `environments/` by what they belong to; others only count."""
    found: dict[str, Traces] = {}
    areas: dict[str, Area] = {}
    parts, archives, size = [], [], 0
    for each in objects:
        size += each.size_bytes
        name = each.key.removeprefix(ENVIRONMENTS)
        if each.key.startswith(ENVIRONMENT_PARTS):
            parts.append(each)
        elif each.key.startswith(OWN_ENVIRONMENTS):
            _note_area(areas, each)
        elif _ARCHIVE.fullmatch(name):
            archives.append(each)
        elif match := _OWN.fullmatch(name) or _RUN.fullmatch(name):
            fingerprint = match["fingerprint"]
            traces = found.setdefault(
                fingerprint, Traces(fingerprint=fingerprint, last_used=each.stored_at)
            )
            _note(traces, each, match)
    return Stock(
        environments=found,
        areas=areas,
        parts=tuple(parts),
        archives=tuple(archives),
        size_bytes=size,
    )


def _note(traces: Traces, found: EnvironmentObject, match: "re.Match[str]") -> None:
    traces.last_used = max(traces.last_used, found.stored_at)
    groups = match.groupdict()
    if run_id := groups.get("run"):
        traces.used_by.add(run_id)
        traces.record_keys.append(found.key)
        return
    traces.is_current = traces.is_current or groups["kind"] == "current"
    if groups["kind"] == "manifests" and groups["name"]:
        traces.manifests.append(groups["name"].removesuffix(".json"))
    traces.keys.append(found.key)


def _note_area(areas: dict[str, Area], found: EnvironmentObject) -> None:
    match = _AREA.fullmatch(found.key.removeprefix(OWN_ENVIRONMENTS))
    if match is None:
        return
    name = match["area"]
    area = areas.setdefault(name, Area(name=name, last_used=found.stored_at))
    area.last_used = max(area.last_used, found.stored_at)
    area.objects.append(found)
    if run_id := match["run"]:
        area.runs.add(run_id)


def find_unused_areas(
    stock: Stock, live_runs: Set[str], *, keep: timedelta, now: datetime
) -> list[Area]:
    """Return the areas that no live run has and that were not used for `keep`, as a whole."""
    return [
        area
        for area in stock.areas.values()
        if now - area.last_used >= keep and not ({area.name} | area.runs) & live_runs
    ]


def find_unused(
    stock: Stock, live_runs: Set[str], *, keep: timedelta, now: datetime
) -> list[Traces]:
    """Return the environments that were not used for `keep`, the longest unused first.

    One that a live run recorded is needed however long ago that was: the run accepts no other.
    """
    unused = [
        traces
        for traces in stock.environments.values()
        if now - traces.last_used >= keep and not traces.used_by & live_runs
    ]
    return sorted(unused, key=lambda traces: traces.last_used)


@dataclass(frozen=True, kw_only=True)
class Orphans:
    """The parts that no manifest names; a commit may be about to name the `recent` ones."""

    old: tuple[EnvironmentObject, ...] = ()
    recent: tuple[EnvironmentObject, ...] = ()


def find_orphans(parts: Iterable[EnvironmentObject], needed: Set[str], *, now: datetime) -> Orphans:
    """Return the parts that no manifest names.

    `needed` has the digests that manifests name, read after `parts` were listed.
    """
    found = [part for part in parts if part.key.removeprefix(ENVIRONMENT_PARTS) not in needed]
    return Orphans(
        old=tuple(part for part in found if now - part.stored_at >= MARGIN),
        recent=tuple(part for part in found if now - part.stored_at < MARGIN),
    )


def find_old_archives(
    archives: Iterable[EnvironmentObject], *, now: datetime
) -> list[EnvironmentObject]:
    """Return the archives that only agents of an earlier version read and write."""
    return [archive for archive in archives if now - archive.stored_at >= MARGIN]
