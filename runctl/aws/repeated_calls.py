"""Calls that are repeated in addition to the retries of the client."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from runctl.aws.errors import translated
from runctl.model.errors import TransientError

_Answer = TypeVar("_Answer")


def repeat_call(
    call: Callable[[], _Answer], *, pauses: Iterable[float], pause: Callable[[float], None]
) -> _Answer:
    """Return the answer of a call, which is repeated after each of the pauses (seconds).

    Errors of AWS become ours; TransientError is raised only after the last try.
    """
    for seconds in pauses:
        try:
            with translated():
                return call()
        except TransientError:
            pause(seconds)
    with translated():
        return call()
