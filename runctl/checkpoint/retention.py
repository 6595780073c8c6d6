"""Retention of the last few checkpoints; a part goes with the last manifest that needs it."""

import logging
import re
from collections.abc import Sequence

from runctl.aws.checkpoints import CheckpointStore
from runctl.fault_points import reach
from runctl.model.checkpoint import Manifest
from runctl.model.errors import DamagedCheckpointError

_NAME = re.compile(r"/[^/]*-([0-9]{1,9})(?:\.r[0-9]+)?\.json\Z")

logger = logging.getLogger(__name__)


def remove_old_checkpoints(
    store: CheckpointStore, kept: Sequence[str], newest: Manifest, *, attempt: int
) -> set[str]:
    """Remove the manifests that are not `kept`, and the parts that only they need.

    `kept[0]` is the key of `newest`. Returns the digests that were removed. Manifests of a later
    attempt are left alone: it may have begun since our commit.
    """
    old = [key for key in store.manifest_keys() if key not in kept and _is_of(key, attempt)]
    if not old:
        return set()
    needed = newest.digests
    for key in kept[1:]:
        try:
            needed |= store.get_manifest(key).digests
        except DamagedCheckpointError as exc:
            logger.warning("the kept checkpoint %s is damaged: %s", key, exc)
    removed: set[str] = set()
    for key in old:
        try:
            needless = store.get_manifest(key).digests - needed - removed
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


def _is_of(key: str, attempt: int) -> bool:
    """Return whether a manifest is of this attempt or an earlier one; False for an unknown name."""
    match = _NAME.search(key)
    return match is not None and int(match[1]) <= attempt
