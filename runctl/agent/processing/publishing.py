"""The publication of a shard: its outputs are uploaded, and then its result completes it."""

import hashlib
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from runctl.agent.instance.archive import pack
from runctl.agent.ports import Shards
from runctl.agent.processing.halt import Halt
from runctl.agent.processing.results import Results
from runctl.agent.processing.running import Processed
from runctl.agent.processing.shard_folder import ShardFolder
from runctl.beneath.opened_file import OpenedFile
from runctl.fault_points import reach
from runctl.model.errors import RequestError, RunctlError, TransientError
from runctl.model.shard import DONE, FAILED, ShardOutput, ShardResult, read_result

RETRY_SECONDS = 2.0
READ_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


class ShardPublisher:
    """Stores what became of shards. `too_late` says whether no time is left for an upload."""

    def __init__(
        self,
        store: Shards,
        *,
        output: str,
        run_id: str,
        attempt: int,
        results: Results,
        interrupted: set[int],
        halt: Halt,
        too_late: Callable[[], bool],
    ) -> None:
        self._store = store
        self._output = output
        self._run_id = run_id
        self._attempt = attempt
        self._results = results
        self._interrupted = interrupted
        self._halt = halt
        self._too_late = too_late

    def publish(self, place: ShardFolder, processed: Processed) -> str | None:
        """Upload the outputs of a shard and commit it; return why that failed, or an empty text.

        None if it is not known whether it is done: no time was left, or a later attempt has it.
        """
        while True:
            try:
                outputs = tuple(self._upload(place))
                reach("processing.uploaded")
                line = self._result(place, processed, outputs=outputs).as_line()
                if not self._store.commit(place.number, line, attempt=self._attempt):
                    return None
                reach("processing.committed")
                self._results.add(place.number, line)
                if place.number in self._interrupted:
                    self._store.remove_checkpoint(place.number)
            except RequestError as exc:
                return str(exc)
            except (TransientError, FileNotFoundError) as exc:
                if self._too_late():
                    logger.warning("shard %d is not stored: %s", place.number, exc)
                    return None
                logger.warning("storing shard %d again: %s", place.number, exc)
                time.sleep(RETRY_SECONDS)
            else:
                return ""

    def result(self, place: ShardFolder, processed: Processed, *, reason: str) -> dict[str, Any]:
        """Return the document of a shard that failed for good."""
        return dict(read_result(self._result(place, processed, reason=reason).as_line()))

    def record_failure(self, place: ShardFolder, processed: Processed, reason: str) -> None:
        """Store that a shard failed for good."""
        line = self._result(place, processed, reason=reason).as_line()
        while True:
            try:
                self._store.record_failure(place.number, line)
            except TransientError as exc:
                if self._too_late():
                    return
                logger.warning("storing the failure of shard %d again: %s", place.number, exc)
                time.sleep(RETRY_SECONDS)
            else:
                return

    def keep_checkpoint(self, place: ShardFolder) -> None:
        """Store the checkpoint folder of an interrupted shard, if its script has saved anything."""
        if not place.has_checkpoint():
            return
        try:
            pack(place.archive, place.checkpoint)
            self._store.put_checkpoint(place.number, place.archive)
        except (RunctlError, OSError) as exc:
            logger.warning("the checkpoint of shard %d is not stored: %s", place.number, exc)
        else:
            logger.info("the checkpoint of shard %d is stored", place.number)

    def _upload(self, place: ShardFolder) -> list[ShardOutput]:
        outputs = []
        for name, file in place.written():
            if self._too_late():
                raise TransientError("no time is left")
            size_bytes, sha256 = _digest(file)
            self._store.put_output(
                self._output, name, file, shard=place.number, attempt=self._attempt
            )
            outputs.append(ShardOutput(name=name, size_bytes=size_bytes, sha256=sha256))
        return outputs

    def _result(
        self,
        place: ShardFolder,
        processed: Processed,
        *,
        outputs: tuple[ShardOutput, ...] = (),
        reason: str = "",
    ) -> ShardResult:
        return ShardResult(
            shard=place.number,
            status=FAILED if reason else DONE,
            run_id=self._run_id,
            attempt=self._attempt,
            tries=processed.tries,
            seconds=processed.seconds,
            inputs=place.shard.files,
            ended_at=datetime.now(timezone.utc),
            outputs=outputs,
            reason=reason,
        )


def _digest(file: OpenedFile) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := file.read(size_bytes, READ_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()
