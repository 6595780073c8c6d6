"""A minimal HTTP/1.1 client, with little work for each request, for many or large bodies."""

import contextlib
import mmap
import re
import select
import socket
import ssl
import struct
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

Buffer = bytes | bytearray | memoryview
Write = Callable[[int, Buffer], object]

RECEIVE_BYTES = 512 * 1024
# An older idle connection is checked before it is used: the other side may have closed it.
FRESH_SECONDS = 1.0
PORTS = {"http": 80, "https": 443}
LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,18})\r\n")
# RFC 9112: the characters of a request line and a header, so that neither can begin another one.
_PATH = re.compile(r"/[!-~]*")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[ -~\t]*")


def drop(_offset: int, _chunk: Buffer) -> None:
    """Write nothing: the bytes themselves are of no interest."""


class StrangeAnswerError(OSError):
    """An answer that breaks off, or that only a full HTTP client understands."""


class UnsafeRequestError(ValueError):
    """A path or a header with characters that would change the request."""


def request_head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return a request's first lines; UnsafeRequestError for characters that these cannot have."""
    if _NAME.fullmatch(method) is None or _PATH.fullmatch(path) is None:
        raise UnsafeRequestError(f"{path[:100]!a} cannot be the path of a request")
    for name, value in headers.items():
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise UnsafeRequestError(
                f"the header {name[:100]!a} has a character that it cannot have"
            )
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("ascii")


class Connections:
    """Connections to one server that are kept open; safe to share between threads.

    Nothing is retried here. A failure raises OSError and closes the connection.
    """

    def __init__(self, url: str, *, timeout: float, tls: ssl.SSLContext | None) -> None:
        place = urlsplit(url)
        self._host = place.hostname or ""
        self._port = place.port or PORTS[place.scheme]
        self._tls = tls
        self._timeout = timeout
        self._idle: deque[_Connection] = deque()
        self._is_closed = False
        weakref.finalize(self, _close_all, self._idle)

    def exchange(self, head: bytes, body: Iterable[Buffer], write: Write) -> int:
        """Send a request; return the answer's status.

        The body of a 200 goes to `write`, with the offset of each chunk; any other is dropped.
        """
        connection = self._take()
        try:
            status = connection.exchange(head, body, write)
        except BaseException:
            # The request may be half sent: this connection cannot be used again.
            connection.close()
            raise
        if connection.is_reusable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.close()
        return status

    def close(self) -> None:
        """Close the idle connections now, and the others after their use."""
        self._is_closed = True
        _close_all(self._idle)

    def _take(self) -> "_Connection":
        with contextlib.suppress(IndexError):  # when none is left
            while True:
                connection = self._idle.pop()
                if connection.is_alive():
                    return connection
                connection.close()
        plain = socket.create_connection((self._host, self._port), self._timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                _leave_time_limits_to_the_kernel(plain, self._timeout)
                return _Connection(plain)
            return _Connection(self._tls.wrap_socket(plain, server_hostname=self._host))
        except BaseException:
            plain.close()
            raise


def _leave_time_limits_to_the_kernel(plain: socket.socket, seconds: float) -> None:
    """Let a call that takes too long fail with EAGAIN, and save a poll() before each call."""
    plain.settimeout(None)
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))  # struct timeval
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        plain.setsockopt(socket.SOL_SOCKET, option, limit)


def _close_all(idle: "deque[_Connection]") -> None:
    with contextlib.suppress(IndexError):  # until there is none, or another thread took the last
        while True:
            idle.pop().close()


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(self, held: socket.socket) -> None:
        self._socket = held
        # A head with MSG_MORE leaves together with the body's first bytes, and MSG_WAITALL wakes
        # us once for all of an answer. TLS has neither.
        is_plain = not isinstance(held, ssl.SSLSocket)
        self._more = socket.MSG_MORE if is_plain else 0
        self._all = socket.MSG_WAITALL if is_plain else 0
        # It begins at a page boundary: the kernel copies to it faster than to a bytearray.
        self._buffer = mmap.mmap(-1, RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._used_at = time.monotonic()
        self.is_reusable = True

    def is_alive(self) -> bool:
        """Whether the other side has neither closed it nor sent anything unrequested."""
        if time.monotonic() - self._used_at < FRESH_SECONDS:
            return True
        watch = select.poll()
        watch.register(self._socket, select.POLLIN)
        return not watch.poll(0)

    def close(self) -> None:
        self._socket.close()

    def exchange(self, head: bytes, body: Iterable[Buffer], write: Write) -> int:
        flags = self._more
        for chunk in body:
            if head:
                self._socket.sendall(head, flags)
                head = b""
            self._socket.sendall(chunk)
        if head:
            self._socket.sendall(head)
        status, length, filled, start = self._read_head()
        done = 0
        while True:
            # A TLS record holds 16 KiB: several of them are worth a call of `write`.
            end = min(len(self._buffer), start + length - done)
            while filled < end:
                count = self._socket.recv_into(self._view[filled:end], 0, self._all)
                if not count:
                    raise StrangeAnswerError(f"the answer ended before its {length} bytes")
                filled += count
            if filled > end:
                raise StrangeAnswerError("the answer is longer than announced")
            if status == 200 and end > start:
                write(done, self._view[start:end])
            done += end - start
            if done == length:
                break
            start = filled = 0
        self._used_at = time.monotonic()
        return status

    def _read_head(self) -> tuple[int, int, int, int]:
        """Return status and length, how far the buffer is filled, and where the body begins."""
        filled = 0
        while (end := self._buffer.find(b"\r\n\r\n", 0, filled)) < 0:
            count = self._socket.recv_into(self._view[filled:])
            if not count:
                raise StrangeAnswerError("the answer ended within its head")
            filled += count
        head = bytes(self._view[: end + 2]).lower()
        length = LENGTH.search(head)
        status = head[9:12]
        if not head.startswith(b"http/1.1 ") or not status.isdigit() or length is None:
            raise StrangeAnswerError("the answer has no plain head")
        if b"\r\ntransfer-encoding:" in head or status.startswith(b"1"):
            raise StrangeAnswerError("the answer has an unsupported encoding or status")
        self.is_reusable = b"\r\nconnection: close" not in head
        return int(status), int(length[1]), filled, end + 4
