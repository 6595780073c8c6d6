"""Several threads that work through one sequence of jobs."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Job = TypeVar("Job")
# S3 answers after some tens of milliseconds, so this many small parts wait at once. This is why a
# thread's buffers are small (`chunks.py`, `fast_s3/http1.py`).
THREADS = 32
# More files than this, in a MiB or less, cost mostly system calls.
MANY_FILES = 64
_CALLS = threading.Lock()


def alone(files: int) -> contextlib.AbstractContextManager[object]:
    """Hold a lock while many small files are opened.

    Each system call releases the GIL. If threads make many calls each, they alternate at every
    call, which takes several times as long as when one thread makes all its calls before the next.
    """
    return _CALLS if files > MANY_FILES else contextlib.nullcontext()


def run_workers(
    jobs: Iterable[Job], work: Callable[[Iterator[Job]], None], *, threads: int = THREADS
) -> None:
    """Run threads that each take the next job until none is left.

    `work` is called once per thread with an iterator over the jobs that it takes. If one of them
    raises, the others end after their current job, and the exception is raised here.
    """
    shared = _Shared(jobs)

    def work_on() -> None:
        try:
            work(shared)
        except BaseException:
            shared.stop()
            raise

    with ThreadPoolExecutor(threads, thread_name_prefix=work.__name__.strip("_")) as pool:
        begun = [pool.submit(work_on)]
        while len(begun) < threads and not shared.has_ended:  # a few jobs need fewer threads
            begun.append(pool.submit(work_on))
        wait(begun)
    for future in begun:
        future.result()


class _Shared(Generic[Job]):
    """An iterator shared by several threads."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = iter(jobs)
        self._lock = threading.Lock()
        self.has_ended = False

    def __iter__(self) -> Iterator[Job]:
        return self

    def __next__(self) -> Job:
        with self._lock:
            if self.has_ended:
                raise StopIteration
            try:
                return next(self._jobs)
            except StopIteration:
                self.has_ended = True
                raise

    def stop(self) -> None:
        self.has_ended = True
