"""Retention of the last few checkpoints; a part goes with the last manifest that needs it."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence

from runctl.aws.checkpoints import CheckpointStore
from runctl.fault_points import reach
from runctl.model.checkpoint import Manifest
from runctl.model.errors import DamagedCheckpointError
from runctl.model.identity import node_of_manifest

# A node may be ahead of the newest checkpoint, and its last manifests have files that it needs.
NODE_MANIFESTS_KEPT = 3
_NAME = re.compile(r"/[^/]*-([0-9]{1,9})(?:\.r[0-9]+)?\.json\Z")

logger = logging.getLogger(__name__)


def remove_old_checkpoints(
    store: CheckpointStore,
    kept: Sequence[str],
    newest: Manifest,
    *,
    attempt: int,
    read_node_manifest: Callable[[str], Manifest] | None = None,
) -> set[str]:
    """Remove the manifests that are not `kept`, and the parts that only they need.

    `kept[0]` is the key of `newest`. Returns the digests that were removed. Manifests of a later
    attempt are left alone: it may have begun since our commit. Where several nodes store files,
    `read_node_manifest` returns the manifest of one: those of earlier attempts are removed, too,
    and all but the last few of each node in this one. A part that a node is about to name again may
    be removed; the commit that joins its files verifies that it is still stored.
    """
    old = [key for key in store.manifest_keys() if key not in kept and _is_of(key, attempt)]
    used: list[str] = []
    old_of_nodes: list[str] = []
    if read_node_manifest is not None:
        used, old_of_nodes = divide_node_manifests(store.node_manifest_keys(), attempt=attempt)
    if not old and not old_of_nodes:
        return set()
    read = read_node_manifest or store.get_manifest
    needed = newest.digests
    for key in (*kept[1:], *used):
        try:
            needed |= read(key).digests
        except DamagedCheckpointError as exc:
            logger.warning("the kept checkpoint %s is damaged: %s", key, exc)
    removed: set[str] = set()
    for key in (*old, *old_of_nodes):
        try:
            needless = read(key).digests - needed - removed
        except DamagedCheckpointError:
            needless = set()
        # The manifest first: if we are killed in between, parts remain without a manifest, never
        # the reverse.
        store.delete_manifest(key)
        reach("save.old_manifest_removed")
        store.delete_parts(sorted(needless))
        reach("save.old_parts_removed")
        removed |= needless
    return removed


def divide_node_manifests(keys: Iterable[str], *, attempt: int) -> tuple[list[str], list[str]]:
    """Divide the keys of nodes' manifests into those that may be needed, and older ones."""
    used: list[str] = []
    old: list[str] = []
    of_node: dict[int, list[tuple[int, str]]] = {}
    for key in keys:
        place = node_of_manifest(key)
        if place is None or place[0] > attempt:
            used.append(key)
        elif place[0] < attempt:
            old.append(key)
        else:
            of_node.setdefault(place[1], []).append((place[2], key))
    for numbered in of_node.values():
        newest_last = [key for _, key in sorted(numbered)]
        used += newest_last[-NODE_MANIFESTS_KEPT:]
        old += newest_last[:-NODE_MANIFESTS_KEPT]
    return used, old


def _is_of(key: str, attempt: int) -> bool:
    """Return whether a manifest is of this attempt or an earlier one; False for an unknown name."""
    match = _NAME.search(key)
    return match is not None and int(match[1]) <= attempt
