"""Several threads that work through one sequence of jobs."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Job = TypeVar("Job")
# S3 answers after some tens of milliseconds: so many small parts wait for that at once. It is why
# the buffers of a thread are small (`pieces.py`, `wire.py`).
THREADS = 32
# More files than these, in a MiB or less, cost mostly system calls.
MANY_FILES = 64
_CALLS = threading.Lock()


def alone(files: int) -> contextlib.AbstractContextManager[object]:
    """Hold a lock while many small files are opened, if they are many.

    Each system call lets go of the GIL. Threads that make one after another take turns at each of
    them, which takes several times as long as when one thread makes all, then the next.
    """
    return _CALLS if files > MANY_FILES else contextlib.nullcontext()


def run_workers(jobs: Iterable[Job], work: Callable[[Iterator[Job]], None]) -> None:
    """Let threads take jobs, each the next one, until there is none left.

    `work` is called once a thread with an iterator over the jobs that fall to it. What one of them
    raises ends the others after the job that they are at, and is raised here.
    """
    shared = _Shared(jobs)

    def work_on() -> None:
        try:
            work(shared)
        except BaseException:
            shared.stop()
            raise

    with ThreadPoolExecutor(THREADS, thread_name_prefix=work.__name__.strip("_")) as pool:
        begun = [pool.submit(work_on)]
        while len(begun) < THREADS and not shared.has_ended:  # a few jobs need no more threads
            begun.append(pool.submit(work_on))
        wait(begun)
    for one in begun:
        one.result()


class _Shared(Generic[Job]):
    """An iterator that several threads may ask."""

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
