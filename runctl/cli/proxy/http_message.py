"""Heads of HTTP/1.1 messages: where a message ends, and whether it may be sent again. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEAD_BYTES = 128 * 1024
# RFC 9110, 9.2.2: a repetition of these has the same effect as one request.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) [^ \r\n]+ HTTP/1\.([01])\r\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})[ \r]")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,32}( |$)")


@dataclass(frozen=True, kw_only=True)
class Body:
    """How the end of a body is known: by its length, by chunks, or by the end of the connection."""

    length: int = 0
    is_chunked: bool = False
    lasts: bool = False


@dataclass(frozen=True, kw_only=True)
class RequestHead:
    """The head of a request."""

    method: str
    body: Body
    keeps_alive: bool
    expects_continue: bool

    @property
    def is_idempotent(self) -> bool:
        """Whether it may be sent again."""
        return self.method in IDEMPOTENT


@dataclass(frozen=True, kw_only=True)
class ResponseHead:
    """The head of a response to a known request."""

    status: int
    body: Body
    keeps_alive: bool

    @property
    def is_interim(self) -> bool:
        """Whether the actual response follows."""
        return 100 <= self.status < 200 and self.status != 101

    @property
    def switches(self) -> bool:
        """Whether another protocol follows, such as that of WebSockets."""
        return self.status == 101


def may_be_http(start: bytes) -> bool:
    """Whether the first bytes of a connection may begin an HTTP request."""
    return _METHOD.match(start) is not None


def read_request_head(head: bytes) -> RequestHead | None:
    """Read a head, its empty line included; None if it is not a request of HTTP/1."""
    found = _REQUEST.match(head)
    if found is None or found[1] == b"CONNECT":
        return None
    fields = _fields(head)
    body = _body(fields)
    if body is None:
        return None
    return RequestHead(
        method=found[1].decode(),
        body=body,
        keeps_alive=_keeps_alive(fields, found[2]),
        expects_continue="100-continue" in fields.get("expect", "").lower(),
    )


def read_response_head(head: bytes, request: RequestHead) -> ResponseHead | None:
    """Read the head of a response; None if it is none of HTTP/1."""
    found = _STATUS.match(head)
    if found is None:
        return None
    fields, status = _fields(head), int(found[2])
    body = _body(fields)
    if body is None:
        return None
    if request.method == "HEAD" or status in {204, 304} or status < 200:
        body = Body()
    elif not body.is_chunked and "content-length" not in fields:
        body = Body(lasts=True)
    return ResponseHead(
        status=status, body=body, keeps_alive=_keeps_alive(fields, found[1]) and not body.lasts
    )


def _fields(head: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.strip().lower(), value.strip()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _body(fields: Mapping[str, str]) -> Body | None:
    if "transfer-encoding" in fields:
        # Another coding than chunked has no end that can be known.
        is_chunked = fields["transfer-encoding"].lower().rpartition(",")[2].strip() == "chunked"
        return Body(is_chunked=True) if is_chunked else None
    lengths = {length.strip() for length in fields.get("content-length", "0").split(",")}
    (length, *others) = lengths
    if others or not length.isascii() or not length.isdigit():
        return None
    return Body(length=int(length))


def _keeps_alive(fields: Mapping[str, str], version: bytes) -> bool:
    options = {option.strip().lower() for option in fields.get("connection", "").split(",")}
    return "keep-alive" in options if version == b"0" else "close" not in options
