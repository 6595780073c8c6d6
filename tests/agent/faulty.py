"""A proxy in front of the tests' S3 and DynamoDB that fails on request."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

DELAY_SECONDS = 0.5
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


class Trouble(Enum):
    """How a response goes wrong."""

    SLOW = "slow"
    SLOW_DOWN = "SlowDown"
    INTERNAL = "InternalError"
    RESET = "reset"
    LOST_ANSWER = "lost answer"
    HALF_BODY = "half a body"
    FLIPPED_BYTE = "flipped byte"
    CONFLICT = "ConditionalRequestConflict"
    FORBIDDEN = "AccessDenied"
    THROTTLED = "ThrottlingException"
    OVER_CAPACITY = "ProvisionedThroughputExceededException"
    SERVER_ERROR = "InternalServerError"


STATUS = {
    Trouble.SLOW_DOWN: 503,
    Trouble.INTERNAL: 500,
    Trouble.CONFLICT: 409,
    Trouble.FORBIDDEN: 403,
    Trouble.THROTTLED: 400,
    Trouble.OVER_CAPACITY: 400,
    Trouble.SERVER_ERROR: 500,
}


@dataclass
class Order:
    """A fault, the requests that it affects, and how many of them are still to come."""

    trouble: Trouble
    asked: re.Pattern[str]
    left: int
    met: list[str] = field(default_factory=list)

    @property
    def happened(self) -> bool:
        return bool(self.met)


class Front:
    """Forwards requests to `endpoint`, except those for which a fault was ordered.

    A request is named `PUT /bucket/key` or, for DynamoDB, by its action: `UpdateItem`. Like S3,
    and unlike the server behind it, it refuses a body whose checksum differs from the header's.
    """

    def __init__(self, endpoint: str) -> None:
        self._upstream = urlsplit(endpoint).netloc
        self._orders: list[Order] = []
        self._lock = threading.Lock()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                front.handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

            def log_message(self, *_args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def order(self, trouble: Trouble, asked: str, *, times: int = 1) -> Order:
        """Cause a fault for the next requests whose names contain `asked`."""
        order = Order(trouble, re.compile(asked), times)
        with self._lock:
            self._orders.append(order)
        return order

    def relent(self) -> None:
        """Stop causing faults."""
        with self._lock:
            self._orders.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else b""
        action = (request.headers.get("X-Amz-Target") or "").rpartition(".")[2]
        trouble = self._trouble_for(action or f"{request.command} {request.path}")
        if trouble is Trouble.SLOW:
            time.sleep(DELAY_SECONDS)
        if trouble is Trouble.RESET:
            return _reset(request)
        if trouble in STATUS:
            return _refuse(request, trouble.value, STATUS[trouble], is_json=bool(action))
        if trouble is Trouble.FLIPPED_BYTE and request.command == "PUT":
            body = _flipped(body)
        expected = request.headers.get("x-amz-checksum-sha256")
        if expected and base64.b64encode(hashlib.sha256(body).digest()).decode() != expected:
            return _refuse(request, "BadDigest", 400, is_json=False)
        status, headers, content = self._pass_on(request, body)
        if trouble is Trouble.LOST_ANSWER:
            return _reset(request)
        if trouble is Trouble.FLIPPED_BYTE and request.command == "GET":
            content = _flipped(content)
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                request.send_header(name, value)
        length = len(content)
        if request.command == "HEAD":
            length = int(dict(headers).get("Content-Length", 0))
        request.send_header("Content-Length", str(length))
        request.end_headers()
        if trouble is Trouble.HALF_BODY:
            request.wfile.write(content[: len(content) // 2])
            return _reset(request)
        request.wfile.write(content)
        return None

    def _trouble_for(self, name: str) -> Trouble | None:
        with self._lock:
            for order in self._orders:
                if order.left and order.asked.search(name):
                    order.left -= 1
                    order.met.append(name)
                    return order.trouble
        return None

    def _pass_on(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=240)
        try:
            connection.putrequest(request.command, request.path, skip_host=True)
            for name, value in request.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1]) if content else content


def _reset(request: BaseHTTPRequestHandler) -> None:
    """Reset the connection, without a word to the other side."""
    request.close_connection = True
    linger_not_at_all = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not_at_all)
    request.rfile.close()
    os.close(request.connection.detach())


def _refuse(request: BaseHTTPRequestHandler, code: str, status: int, *, is_json: bool) -> None:
    if is_json:
        text = f'{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"for the test"}}'
        kind = "application/x-amz-json-1.0"
    else:
        text = f"<Error><Code>{code}</Code><Message>for the test</Message></Error>"
        kind = "application/xml"
    content = b"" if request.command == "HEAD" else text.encode()
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)
