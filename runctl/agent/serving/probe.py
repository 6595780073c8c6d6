"""A probe: one HTTP request to the server on this machine, and whether it succeeded."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from runctl import __version__
from runctl.model.serving_options import ServingOptions

# An answer may be a page; only its status matters.
MAX_BODY = 64 * 1024
_ANY_ANSWER = range(100, 500)
_SUCCESS = range(200, 400)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A request for `path`, which succeeds with a status of `statuses` within the timeout.

    `on_connect` is called with the local port of its connection.
    """

    port: int
    path: str
    statuses: range
    timeout: float
    on_connect: Callable[[int], None] = lambda _port: None

    def check(self) -> str:
        """Send the request; return the problem, empty if it succeeded."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        # The timeout of a socket is one for each read: a server may send a byte now and then.
        is_late = threading.Event()
        watchdog = threading.Timer(self.timeout, lambda: _cut_off(connection, is_late))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.connect()
            self.on_connect(connection.sock.getsockname()[1])
            connection.request("GET", self.path, headers=_HEADERS)
            answer = connection.getresponse()
            answer.read(MAX_BODY)
        except ConnectionRefusedError:
            return f"nothing listens on port {self.port}"
        except (OSError, http.client.HTTPException) as exc:
            if not (is_late.is_set() or isinstance(exc, TimeoutError)):
                return f"no HTTP answer to GET {self.path}: {exc or type(exc).__name__}"
            return f"no answer to GET {self.path} within {self.timeout:.0f} s"
        finally:
            watchdog.cancel()
            connection.close()
        if answer.status in self.statuses:
            return ""
        return f"GET {self.path} was answered with status {answer.status}"


_HEADERS = {"Connection": "close", "User-Agent": f"runctl-probe/{__version__}"}


def _cut_off(connection: http.client.HTTPConnection, is_late: threading.Event) -> None:
    is_late.set()
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The three probes of a server."""

    startup: Probe
    readiness: Probe
    liveness: Probe


def make_probes(
    options: ServingOptions, port: int, *, on_connect: Callable[[int], None] = lambda _port: None
) -> Probes:
    """Return the probes that a request describes."""

    def make(path: str, status: int, timeout_seconds: int) -> Probe:
        path = path or options.probe_path
        statuses = _SUCCESS if path else _ANY_ANSWER
        return Probe(
            port=port,
            path=path or "/",
            statuses=range(status, status + 1) if status else statuses,
            timeout=float(timeout_seconds),
            on_connect=on_connect,
        )

    startup, readiness, liveness = options.startup, options.readiness, options.liveness
    return Probes(
        startup=make(startup.path, startup.status, startup.timeout_seconds),
        readiness=make(readiness.path, readiness.status, readiness.timeout_seconds),
        liveness=make(liveness.path, liveness.status, liveness.timeout_seconds),
    )
