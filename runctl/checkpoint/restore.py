"""Restoring a checkpoint folder from parts that are fetched in advance."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.candidates import NOTHING_KNOWN, PARTIAL, Trust, candidates
from runctl.checkpoint.file_fetcher import FileFetcher
from runctl.checkpoint.save_groups import NO_NUMBER, place_of
from runctl.checkpoint.torch_records import METADATA, named_records
from runctl.fault_points import reach
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry
from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A checkpoint of which every file has been fetched and verified."""

    key: str
    manifest: Manifest


def check_records(manifest: Manifest, read: Callable[[Entry], Iterator[bytes]]) -> None:
    """Check that the newest save of torch.distributed.checkpoint has every record that it names.

    Programs may remove files of older saves. `read` returns the content of a file. Raises
    DamagedCheckpointError, which names the record.
    """
    paths = {entry.path for entry in manifest.entries}
    for entry in _newest_metadata(manifest):
        folder, slash, name = entry.path.rpartition("/")
        names = (f"{folder}{slash}{record}" for record in named_records(read(entry)))
        if missing := sorted(path for path in names if path not in paths):
            raise DamagedCheckpointError(f"{missing[0]!a}, which {name} names, is missing")


def _newest_metadata(manifest: Manifest) -> list[Entry]:
    """Return what describes the newest save in each folder of saves."""
    described: dict[tuple[str, str], list[Entry]] = {}
    newest: dict[str, tuple[int, str]] = {}
    for entry in manifest.entries:
        if entry.kind == "file" and METADATA.match(entry.path.rpartition("/")[2]):
            place = place_of(entry.path)
            described.setdefault((place.parent, place.save), []).append(entry)
            number = -1 if place.number is None else place.number
            newest[place.parent] = max(newest.get(place.parent, (-1, "")), (number, place.save))
    return [
        entry
        for (parent, save), entries in described.items()
        if save in {NO_NUMBER, newest[parent][1]}
        for entry in entries
    ]


class Restorer:
    """Fetches checkpoints into `incoming`, then moves one into the checkpoint folder."""

    def __init__(self, store: CheckpointStore, incoming: Path) -> None:
        self._store = store
        self._files = FileFetcher(store, incoming)
        self._lock = threading.Lock()
        self.fetched: Fetched | None = None

    def fetch(
        self, newest: str, trust: Trust = NOTHING_KNOWN, *, reuse: Path | None = None
    ) -> Fetched:
        """Fetch the first whole checkpoint of a run, in the order in which they are offered.

        `newest` is the one that the ledger names. What an earlier fetch brought is not fetched
        again, nor what the folder `reuse` has, to which nobody may write meanwhile. Raises
        DamagedCheckpointError if none is whole.
        """
        with self._lock:
            first = True
            last: DamagedCheckpointError | None = None
            for candidate in candidates(self._store, newest, trust):
                if self.fetched is not None and self.fetched.key == candidate:
                    return self.fetched
                try:
                    manifest = self._store.get_manifest(candidate)
                    reach("restore.manifest_read")
                    self.fetched = None  # its files may be among those that are removed now
                    self._files.fetch_files(manifest, reuse=reuse)
                    if not manifest.metadata.get(PARTIAL):
                        check_records(manifest, self._files.read)
                except NewerCheckpointError:
                    raise  # it is whole: nobody may resume from an older one unless asked to
                except DamagedCheckpointError as exc:
                    logger.warning("the checkpoint %s is damaged: %s", candidate, exc)
                    first, last = False, exc
                    continue
                logger.info(
                    "fetched %d of the %d bytes of %s; the others were here",
                    self._files.fetched_bytes,
                    manifest.size_bytes,
                    candidate,
                )
                fetched = Fetched(candidate, manifest)
                if first:  # a damaged one may be readable the next time
                    self.fetched = fetched
                return fetched
            raise DamagedCheckpointError(f"no whole checkpoint is left: {last}") from last

    def put_in_place(self, manifest: Manifest, folder: Path) -> None:
        """Make `folder` match the manifest exactly, including times and modes."""
        self._files.put_in_place(manifest, folder)
        self.fetched = None

    def discard(self) -> None:
        """Remove what was fetched."""
        self.fetched = None
        self._files.discard()
