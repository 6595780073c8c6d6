"""The request that ministack's S3 answers at the moment, and what was done for it in advance."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runctl.local.s3.bodies import Body


@dataclass(frozen=True)
class Prepared:
    """A request's content, stored and hashed before ministack sees the request."""

    content: bytes
    headers: Mapping[str, str]
    body: bytes | Body
    md5: str
    checksums: Any


@dataclass
class _Request:
    """A request; contexts that were copied while it was answered outlive it."""

    prepared: Prepared | None
    thread: int = field(default_factory=threading.get_ident)
    is_answered: bool = False


_request: contextvars.ContextVar[_Request | None] = contextvars.ContextVar(
    "s3_request", default=None
)


@contextlib.contextmanager
def answering(prepared: Prepared | None) -> Iterator[None]:
    """Let what ministack does for a request find what was prepared for it."""
    request = _Request(prepared)
    token = _request.set(request)
    try:
        yield
    finally:
        request.is_answered, request.prepared = True, None
        _request.reset(token)


def is_request() -> bool:
    """Return whether a request is answered, and not something that a request has started."""
    found = _request.get()
    return found is not None and not found.is_answered and found.thread == threading.get_ident()


def prepared_for(content: Any) -> Prepared | None:
    """Return what was prepared for this very content."""
    found = _request.get()
    prepared = found.prepared if found else None
    return prepared if prepared is not None and prepared.content is content else None
