"""Candidates for a restore: the checkpoints of a run, in the order in which they are tried."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Manifest
from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError
from runctl.model.run import Run
from runctl.policy.fallback import MAX_STEPS_BACK, in_order_of_trust

# In the manifest's metadata: the keys of the previous checkpoints, newest first.
PREVIOUS = "previous"
# There, too: whether it is what an unfinished save left, and not a whole checkpoint.
PARTIAL = "partial"
# At most this many are read; retention keeps fewer.
MAX_PREVIOUS = 2000


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What is known about a run's checkpoints, apart from which is the newest.

    `proven` is the last one that a trainer continued from; `suspects` are those from which a
    trainer died, and `tried` those from which one died on this machine.
    """

    proven: str | None = None
    suspects: frozenset[str] = frozenset()
    tried: frozenset[str] = frozenset()

    @classmethod
    def of(cls, run: Run, *, tried: frozenset[str] = frozenset()) -> "Trust":
        """Return what the ledger holds."""
        return cls(proven=run.proven, suspects=run.suspects, tried=tried)


NOTHING_KNOWN = Trust()


def candidates(store: CheckpointStore, newest: str, trust: Trust) -> Iterator[str]:
    """Yield the newest checkpoint and its predecessors, suspects after all others.

    The chain is read only if the newest one is rejected.
    """
    offered = trust.tried
    if newest not in trust.tried | trust.suspects:
        yield newest
        offered |= {newest}
    chain = _chain(store, newest)
    if trust.proven is not None and trust.proven < newest:
        chain.append(trust.proven)
    yield from in_order_of_trust(chain, suspects=trust.suspects, tried=offered)


def _chain(store: CheckpointStore, newest: str) -> list[str]:
    """Return the checkpoint and its predecessors, following the names in the manifests."""
    try:
        chain = [newest, *previous_of(store, newest)]
    except NewerCheckpointError:
        raise
    except DamagedCheckpointError:
        # Without its manifest nothing names the others; each of them is whole in itself.
        return [newest, *(other for other in store.manifest_keys() if other < newest)]
    # Each names only as many as retention keeps, and all of those may have been tried.
    for _ in range(MAX_STEPS_BACK):
        with contextlib.suppress(DamagedCheckpointError):
            chain += [key for key in previous_of(store, min(chain)) if key not in chain]
    return chain


def previous_of(store: CheckpointStore, key: str) -> list[str]:
    """Return the keys of a checkpoint's predecessors, newest first."""
    return keys_before(store.get_manifest(key))


def keys_before(manifest: Manifest) -> list[str]:
    """Return the keys of the predecessors that a manifest names, newest first."""
    keys = manifest.metadata.get(PREVIOUS)
    listed = keys[:MAX_PREVIOUS] if isinstance(keys, list) else []
    return [key for key in listed if isinstance(key, str)]
