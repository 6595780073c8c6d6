"""The fetch of a shard's files, before its script is called."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from runctl.agent.instance.archive import Limits
from runctl.agent.instance.disk import room, says_full
from runctl.agent.ports import Inputs, ObjectPart, Shards
from runctl.agent.prepare.inputs import InputStager
from runctl.agent.processing.halt import Halt
from runctl.agent.processing.shard_folder import STAGED, ShardFolder
from runctl.agent.reporting.progress import Progress
from runctl.model.errors import RequestError, RunctlError, TransientError
from runctl.model.input_sources import InputSource, StoredObject
from runctl.model.object_checksums import Checksum
from runctl.model.shard import Shard

RETRY_SECONDS = 2.0
LIMITS = Limits(
    field="checkpoint",
    members=200_000,
    unpacked_bytes=2**40,
    packed_bytes=2**40,
    remedy="save less",
)

logger = logging.getLogger(__name__)


class NoRoomError(RequestError):
    """The files of a shard do not fit on the disk of the instance."""


class PlannedInputs:
    """The objects of one shard, as if they were all that its input has."""

    def __init__(self, store: Inputs, shard: Shard) -> None:
        self._store = store
        self._shard = shard

    def list_objects(self, _source: InputSource) -> Iterator[StoredObject]:
        """Yield the shard's objects, as they were when the plan was made."""
        yield from self._shard.files

    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        """Return by what the content of an object can be verified."""
        return self._store.find_checksum(source, found)

    def open(
        self, source: InputSource, found: StoredObject, *, offset: int, size_bytes: int
    ) -> AbstractContextManager[ObjectPart]:
        """Open a range of an object."""
        return self._store.open(source, found, offset=offset, size_bytes=size_bytes)


class ShardFetcher:
    """Puts the files of a shard in place, and the checkpoint folder of an earlier try of it."""

    def __init__(
        self,
        inputs: Inputs,
        store: Shards,
        *,
        uri: str,
        folder: Path,
        interrupted: set[int],
        halt: Halt,
        others_need_disk: Callable[[], bool],
    ) -> None:
        self._inputs = inputs
        self._store = store
        self._uri = uri
        self._folder = folder
        self._interrupted = interrupted
        self._halt = halt
        self._others_need_disk = others_need_disk

    def fetch(self, shard: Shard) -> ShardFolder:
        """Fetch a shard's files.

        Raises RequestError if they cannot be read or do not fit, and EndedEarlyError if the session
        has to end.
        """
        place = ShardFolder(shard=shard, root=self._folder / f"{shard.number:08d}")
        # The same one for all tries: it counts those in which a checksum did not match.
        stager = self._stager(place)
        while True:
            try:
                place.make()
                stager.stage({STAGED: self._uri})
                self._restore(place)
            except TransientError as exc:
                logger.warning("fetching shard %d again: %s", shard.number, exc)
            except OSError as exc:
                if not says_full(exc):
                    raise
                place.remove()
                # Other shards free their space when they are done.
                if not self._others_need_disk():
                    raise NoRoomError(
                        f"the files of shard {shard.number} do not fit: the instance's disk is "
                        f"full, {room(self._folder)}; use smaller shards, or a larger disk "
                        "(disk.gib)"
                    ) from exc
            else:
                return place
            self._halt.pause(RETRY_SECONDS)

    def _stager(self, place: ShardFolder) -> InputStager:
        return InputStager(
            PlannedInputs(self._inputs, place.shard),
            folder=place.staging,
            state=place.root,
            progress=Progress(),
            check=self._halt.check,
            log_level=logging.DEBUG,
        )

    def _restore(self, place: ShardFolder) -> None:
        """Restore the checkpoint folder; the shard begins anew if that is not possible."""
        if place.number not in self._interrupted:
            return
        try:
            self._store.fetch_checkpoint(place.number, place.archive)
            place.unpack_checkpoint(LIMITS)
        except TransientError:
            raise
        except RunctlError as exc:
            logger.warning("shard %d begins anew: %s", place.number, exc)
            place.clear_checkpoint()
        finally:
            place.archive.unlink(missing_ok=True)
