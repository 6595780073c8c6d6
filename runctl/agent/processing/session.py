"""The processing session: all shards of an attempt, from the plan to the attempt's outcome.

Each shard goes through three stages with threads of their own: its files are fetched, a worker
calls the script, and its outputs are published. In each stage there are at most as many shards as
workers, which bounds the use of the disk, and no worker waits for the network.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runctl.agent.drain import RESERVE, UNHURRIED
from runctl.agent.instance.disk import FULL
from runctl.agent.ports import Inputs, Shards
from runctl.agent.processing.fetching import NoRoomError, ShardFetcher
from runctl.agent.processing.halt import Halt
from runctl.agent.processing.plan import Plan
from runctl.agent.processing.publishing import ShardPublisher
from runctl.agent.processing.results import Results, write_index
from runctl.agent.processing.running import Processed, ShardRunner
from runctl.agent.processing.shard_folder import ShardFolder
from runctl.agent.processing.tally import Tally
from runctl.agent.program_outcome import failed_outcome, outcome_of_stop
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Contract, Runtime
from runctl.agent.signals.mailbox import Mailbox, StopCause
from runctl.agent.signals.waiting import CancellableWait, EndedEarlyError
from runctl.model.errors import RequestError
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.processing_options import ProcessingOptions
from runctl.policy.sharding import tolerated

MAX_FETCHERS = MAX_PUBLISHERS = 8
POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProcessingContext:
    """What a session needs of its attempt.

    `contract_of` returns the contract of the script for a shard, `shards` of which there are, on a
    worker. `first_attempt` is that of the run's execution: what failed before is tried again.
    `is_part` says that the run processes a part of a job.
    """

    run_id: str
    attempt: int
    first_attempt: int
    is_part: bool
    options: ProcessingOptions
    grace: timedelta
    state: Path
    store: Shards
    inputs: Inputs
    runtime: Runtime
    contract_of: Callable[[ShardFolder, int, int], Contract]
    progress: Progress
    mailbox: Mailbox
    mask: Callable[[str], str]


class ProcessingSession:
    """Processes the shards of a run that have no result yet."""

    def __init__(self, context: ProcessingContext) -> None:
        """Read the plan and what became of its shards so far.

        Raises EndedEarlyError if a stop is requested meanwhile, and RequestError if the plan cannot
        be used.
        """
        self._context = context
        self._store = context.store
        self._folder = context.state / "shards"
        self._folder.mkdir(exist_ok=True)
        for left in self._folder.glob("[0-9]*"):
            ShardFolder.remove_at(left)
        wait = CancellableWait(context.mailbox)
        path = self._folder / "plan.jsonl"
        wait.retry(lambda: self._store.fetch_plan(path))
        options = context.options
        self._plan = Plan(path, first=options.first_shard, count=options.shard_count)
        numbers = self._plan.numbers
        scope = {"first": numbers.start, "last": numbers.stop - 1}
        done = wait.retry(lambda: set(self._store.done(**scope)))
        failures = wait.retry(lambda: list(self._store.failures(**scope)))
        self._failures = {
            int(failure["shard"]): failure
            for failure in failures
            if failure["attempt"] >= context.first_attempt and failure["shard"] not in done
        }
        self._interrupted = wait.retry(self._store.checkpoints)
        self._tally = Tally(
            len(numbers),
            done=len(done),
            failed=len(self._failures),
            # Those of the whole job: a part of it does not know how many fail elsewhere.
            tolerated=tolerated(self._plan.header.shards, part=options.tolerated_failures),
        )
        self._pending = iter([n for n in numbers if n not in done and n not in self._failures])
        self._left = len(numbers) - len(done) - len(self._failures)
        self._lock = threading.Lock()
        self._ready: queue.Queue[ShardFolder] = queue.Queue()
        self._finished: queue.Queue[tuple[ShardFolder, Processed] | None] = queue.Queue()
        self._ahead = threading.Semaphore(options.workers)
        self._behind = threading.Semaphore(options.workers)
        self._fatal = ""
        self._drained_at: float | None = None
        self._on_disk = 0
        self._halt = Halt(context.mailbox)
        context.mailbox.on_wake(self._halt.wake)
        self._results = Results(self._folder / "results.jsonl")
        self._publisher = ShardPublisher(
            self._store,
            output=options.output,
            run_id=context.run_id,
            attempt=context.attempt,
            results=self._results,
            interrupted=self._interrupted,
            halt=self._halt,
            too_late=self._is_too_late,
        )
        self._fetcher = ShardFetcher(
            context.inputs,
            self._store,
            uri=self._plan.header.input,
            folder=self._folder,
            interrupted=self._interrupted,
            halt=self._halt,
            others_need_disk=lambda: self._on_disk > 1,
        )

    def run(self) -> Outcome | None:
        """Process the shards; return the outcome, None if a later attempt owns the run."""
        context, progress = self._context, self._context.progress
        progress.count_shards(self._tally.progress())
        progress.mark("started")
        progress.enter("process")
        logger.info(
            "processing %d of %d shards with %d workers",
            self._left,
            len(self._plan.numbers),
            context.options.workers,
        )
        if self._tally.has_too_many_failures:
            self._fatal = self._describe_failures(next(iter(self._failures)))
        workers = min(context.options.workers, max(1, self._left))
        fetchers = self._start("fetch", self._fetch, min(workers, MAX_FETCHERS))
        runners = self._start("worker", self._work, workers)
        publishers = self._start("publish", self._publish, min(workers, MAX_PUBLISHERS))
        self._supervise()
        self._halt.wake()
        stop = context.mailbox.ending
        if stop is not None:
            progress.mark("detected", stop.detected)
            progress.enter("drain")
            progress.mark("sigterm")
        self._drained_at = time.monotonic()
        for thread in (*runners, *fetchers):
            thread.join()
        progress.mark("exited")
        progress.enter("upload")
        for _ in publishers:
            self._finished.put(None)
        for thread in publishers:
            thread.join()
        progress.count_shards(self._tally.progress())
        return self._outcome()

    def _supervise(self) -> None:
        """Wait until all shards have ended, or the session has to."""
        mailbox, progress = self._context.mailbox, self._context.progress
        while self._left and not self._fatal and not self._halt.is_set:
            mailbox.wait(POLL_SECONDS)
            progress.count_shards(self._tally.progress())
            progress.warn(mailbox.announced, about="maintenance")
            mailbox.take_checkpoint_request()  # shards save by themselves
        if self._fatal or not self._left:
            self._halt.close()

    def _outcome(self) -> Outcome | None:
        mailbox, mask = self._context.mailbox, self._context.mask
        if mailbox.is_fenced:
            return None
        if self._halt.error is not None:
            raise self._halt.error
        if self._fatal:
            return failed_outcome(self._fatal, mask=mask, is_disk_full=FULL in self._fatal)
        if self._left:
            return outcome_of_stop(mailbox.ending, exit_code=None, step=None)
        self._store_index()
        counts = self._tally.progress()
        reason = f"all {counts.total} shards are done"
        if counts.total == 1:
            reason = "the shard is done"
        if counts.failed:
            reason = (
                f"{counts.done} of {counts.total} shards are done, and {counts.failed} failed, "
                "which the run tolerates"
            )
        return Outcome(kind=OutcomeKind.COMPLETED, reason=reason, exit_code=0)

    def _store_index(self) -> None:
        """Write the index of all shards, or the part of it that belongs to this run."""
        path, numbers = self._folder / "index.jsonl", self._plan.numbers
        wait = CancellableWait(self._context.mailbox)
        output = self._context.options.output

        def store() -> None:
            write_index(path, numbers, self._results, self._store, self._failures)
            if self._context.is_part:
                self._store.put_index_part(numbers.start, path)
            else:
                self._store.put_index(output, path)

        wait.retry(store)

    def _start(self, name: str, work: Callable[[int], None], count: int) -> list[threading.Thread]:
        def guarded(number: int) -> None:
            try:
                work(number)
            except EndedEarlyError:
                pass
            except BaseException as exc:
                logger.exception("a thread of the session failed")
                self._halt.fail(exc)

        threads = [
            threading.Thread(target=guarded, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _fetch(self, _number: int) -> None:
        for number in self._take():
            shard = self._plan.shard(number)
            with self._lock:
                self._on_disk += 1
            try:
                place = self._fetcher.fetch(shard)
            except NoRoomError:
                raise
            except RequestError as exc:
                root = self._folder / f"{number:08d}"
                place = ShardFolder(shard=shard, root=root)
                self._ahead.release()
                self._fail(place, Processed(reason=str(exc), seconds=0.0, tries=0), str(exc))
                self._forget(place)
                continue
            self._ready.put(place)

    def _take(self) -> Iterator[int]:
        """Yield the next shards, each once there is room for its files."""
        while not self._halt.is_set:
            if not self._ahead.acquire(timeout=POLL_SECONDS):
                continue
            with self._lock:
                number = next(self._pending, None)
            if number is None:
                self._ahead.release()
                return
            yield number

    def _work(self, worker: int) -> None:
        context = self._context
        runner = ShardRunner(
            context.runtime,
            contract_of=lambda place: context.contract_of(place, worker, self._plan.header.shards),
            retries=context.options.retries,
            grace=context.grace,
            state=context.state,
            halt=self._halt,
            mask=context.mask,
            warn=self._warn,
        )
        while not self._halt.is_set:
            try:
                place = self._ready.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            self._ahead.release()
            processed = runner.process(place)
            if processed.reason is None:
                self._keep(place)
                return
            while not self._behind.acquire(timeout=POLL_SECONDS):
                if self._is_too_late():
                    return
            self._finished.put((place, processed))

    def _keep(self, place: ShardFolder) -> None:
        """Store the checkpoint folder of a shard that was interrupted."""
        stop = self._halt.stop
        if stop is not None and stop.cause is not StopCause.FENCED and not self._is_too_late():
            self._publisher.keep_checkpoint(place)

    def _publish(self, _number: int) -> None:
        while (finished := self._finished.get()) is not None:
            place, processed = finished
            reason: str | None = processed.reason
            if not reason:
                reason = self._publisher.publish(place, processed)
            if reason:
                self._fail(place, processed, reason)
            elif reason is not None:
                self._tally.add_done()
                self._end_shard()
            self._behind.release()
            self._forget(place)

    def _fail(self, place: ShardFolder, processed: Processed, reason: str) -> None:
        """Record that a shard failed for good; end the session if too many have."""
        self._publisher.record_failure(place, processed, reason)
        line = self._publisher.result(place, processed, reason=reason)
        is_too_many = self._tally.add_failure()
        with self._lock:
            self._failures[place.number] = line
            if is_too_many and not self._fatal:
                self._fatal = self._describe_failures(place.number)
        logger.warning("shard %d failed for good: %s", place.number, reason)
        self._end_shard()

    def _describe_failures(self, number: int) -> str:
        failure = self._failures[number]
        tries, reason = failure.get("tries") or 0, failure.get("reason", "")
        often = f" {tries} times" if tries > 1 else ""
        text = f"shard {number} failed{often}: {reason}"
        if self._tally.tolerated:
            counts = self._tally.progress()
            return (
                f"{counts.failed} of {counts.total} shards failed, and {self._tally.tolerated} "
                f"may; {text}"
            )
        return text

    def _end_shard(self) -> None:
        with self._lock:
            self._left -= 1
            is_last = not self._left
        if is_last or self._fatal:
            self._context.mailbox.wake()

    def _forget(self, place: ShardFolder) -> None:
        place.remove()
        with self._lock:
            self._on_disk -= 1

    def _warn(self, warning: str) -> None:
        self._context.progress.warn(warning, about="memory")
        logger.warning("%s", warning)

    def _is_too_late(self) -> bool:
        """Whether no time is left to store anything."""
        mailbox = self._context.mailbox
        if mailbox.is_fenced:
            return True
        stop = mailbox.ending
        if stop is not None and stop.deadline_at is not None:
            return time.monotonic() >= stop.deadline_at - RESERVE.total_seconds()
        began = self._drained_at
        return began is not None and time.monotonic() >= began + UNHURRIED.total_seconds()
