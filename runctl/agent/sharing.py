"""Several threads that work through one sequence of jobs."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Job = TypeVar("Job")
# S3 answers after some tens of milliseconds: so many small parts wait for that at once. It is why
# the buffers of a thread are small (`pieces.py`, `wire.py`).
THREADS = 32


def share(jobs: Iterable[Job], work: Callable[[Iterator[Job]], None]) -> None:
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
        begun = [pool.submit(work_on) for _ in range(THREADS)]
        wait(begun)
    for one in begun:
        one.result()


class _Shared(Generic[Job]):
    """An iterator that several threads may ask."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = iter(jobs)
        self._lock = threading.Lock()
        self._is_stopped = False

    def __iter__(self) -> Iterator[Job]:
        return self

    def __next__(self) -> Job:
        with self._lock:
            if self._is_stopped:
                raise StopIteration
            return next(self._jobs)

    def stop(self) -> None:
        self._is_stopped = True
