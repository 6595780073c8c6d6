"""Removal of stored environments that no run needs, and of parts that none of them names."""

import logging
from collections.abc import Iterable, Sequence, Set
from datetime import timedelta

from runctl.control.ports.services import Services
from runctl.control.ports.storage import EnvironmentCatalog
from runctl.control.results import PrunedEnvironments
from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError
from runctl.model.identity import (
    ENVIRONMENT_PARTS,
    current_environment_key,
    environment_manifest_key,
)
from runctl.policy.environments import (
    Orphans,
    Stock,
    Traces,
    find_old_archives,
    find_orphans,
    find_unused,
    find_unused_areas,
    take_stock,
)

# A function has some minutes; what is left is removed by the next call.
MAX_ENVIRONMENTS = 200
MAX_OBJECTS = 20_000

logger = logging.getLogger(__name__)


def prune_environments(
    services: Services, *, keep: timedelta, is_dry_run: bool = False
) -> PrunedEnvironments:
    """Remove the environments that were not used for `keep`, and what belongs to none.

    Safe to repeat, and to run concurrently with itself, with commits and with runs that fetch an
    environment: a run that finds one incomplete builds its own. A dry run removes nothing.
    """
    catalog = services.environment_catalog
    now = services.clock.now()
    # The runs first: one that starts later marks the environment that it uses.
    live_runs = frozenset(services.ledger.list_unsettled_runs())
    stock = take_stock(catalog.objects())
    unused = find_unused(stock, live_runs, keep=keep, now=now)[:MAX_ENVIRONMENTS]
    removed = unused if is_dry_run else _remove(catalog, unused)
    gone = frozenset(traces.fingerprint for traces in removed)
    needed, damaged = _needed_parts(catalog, stock, gone)
    if damaged and not is_dry_run:
        catalog.remove(sorted(damaged))
    garbage = find_old_archives(stock.archives, now=now)
    orphans = Orphans() if needed is None else find_orphans(stock.parts, needed, now=now)
    # What marks an environment as current has the first keys. A run that is resumed at this
    # moment finds its environment incomplete, and builds it again.
    areas = find_unused_areas(stock, live_runs, keep=keep, now=now)
    own = [each for area in areas for each in area.objects]
    garbage = [*garbage, *orphans.old, *own][:MAX_OBJECTS]
    if garbage and not is_dry_run:
        catalog.remove([each.key for each in garbage])
    return PrunedEnvironments(
        environments=len(stock.environments),
        removed=tuple(traces.fingerprint for traces in removed),
        damaged=tuple(sorted(damaged)),
        objects_removed=len(garbage) + sum(len(traces.keys) for traces in removed),
        bytes_removed=sum(each.size_bytes for each in garbage),
        bytes_removed_later=sum(part.size_bytes for part in orphans.recent),
        is_dry_run=is_dry_run,
    )


def _remove(catalog: EnvironmentCatalog, unused: Sequence[Traces]) -> list[Traces]:
    """Remove environments unless a run has begun to use them; return those that were removed."""
    if not unused:
        return []
    # Without this object nobody begins to use one, so every run that did has left a trace by now.
    catalog.remove([current_environment_key(traces.fingerprint) for traces in unused])
    again = take_stock([*catalog.objects("uses/"), *catalog.objects("runs/")]).environments
    gone = []
    for traces in unused:
        seen = again.get(traces.fingerprint)
        if seen is not None and seen.last_used > traces.last_used:
            logger.info("%s is used again, and its files are kept", traces.fingerprint)
        else:
            gone.append(traces)
    catalog.remove([key for traces in gone for key in (*traces.keys, *traces.record_keys)])
    return gone


def _needed_parts(
    catalog: EnvironmentCatalog, stock: Stock, gone: Set[str]
) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Return the parts that manifests name, and the keys that make runs use a damaged environment.

    The parts are None if a manifest of a newer version has to be kept but cannot be read.
    """
    stored = frozenset(part.key.removeprefix(ENVIRONMENT_PARTS) for part in stock.parts)
    needed: set[str] | None = set()
    damaged: set[str] = set()

    def note_damage(fingerprint: str, manifest: str) -> None:
        damaged.add(environment_manifest_key(fingerprint, manifest))
        if _is_current(catalog, fingerprint, manifest):
            damaged.add(current_environment_key(fingerprint))

    # Listed again: a commit may have named parts since.
    for fingerprint, manifest in _manifests(catalog):
        if fingerprint in gone:
            continue
        try:
            digests = catalog.get_manifest(fingerprint, manifest).digests
        except NewerCheckpointError:
            needed = None
            continue
        except DamagedCheckpointError as exc:
            logger.warning("the environment %s is damaged: %s", fingerprint, exc)
            note_damage(fingerprint, manifest)
            continue
        if needed is not None:
            needed |= digests
        # One that was listed before the parts has all of its parts in that list.
        listed = stock.environments.get(fingerprint)
        if listed is not None and manifest in listed.manifests and not digests <= stored:
            logger.warning("parts of the environment %s are missing", fingerprint)
            note_damage(fingerprint, manifest)
    return None if needed is None else frozenset(needed), frozenset(damaged)


def _is_current(catalog: EnvironmentCatalog, fingerprint: str, manifest: str) -> bool:
    """Whether new runs use a manifest; one that nobody can read counts as well."""
    try:
        current = catalog.current(fingerprint)
    except DamagedCheckpointError:
        return True
    return current is not None and current.manifest == manifest


def _manifests(catalog: EnvironmentCatalog) -> Iterable[tuple[str, str]]:
    stock = take_stock(catalog.objects("manifests/"))
    for traces in stock.environments.values():
        for manifest in traces.manifests:
            yield traces.fingerprint, manifest
