# ruff: noqa: SLF001 - it changes how ministack's interpreter of state machines behaves
"""TimeoutSeconds of tasks: a job that a task waits for learns that the task has timed out."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

from ministack.services import stepfunctions as sfn

_timed_out: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar(
    "timed_out", default=None
)


def install() -> None:
    """Change ministack's interpreter, which abandons the thread of a task that times out, once."""
    invoke = sfn._invoke_resource_with_timeout

    def invoke_with_timeout(resource: str, data: Any, timeout: float) -> Any:
        timed_out = threading.Event()
        token = _timed_out.set(timed_out)
        try:
            return invoke(resource, data, timeout)  # in a thread with a copy of this context
        except sfn._ExecutionError as exc:
            if exc.error == "States.Timeout":
                timed_out.set()
            raise
        finally:
            _timed_out.reset(token)

    sfn._invoke_resource_with_timeout = invoke_with_timeout


def is_abandoned() -> bool:
    """Return whether the task that the calling thread works for has timed out."""
    timed_out = _timed_out.get()
    return timed_out is not None and timed_out.is_set()
