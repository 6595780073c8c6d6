"""A headless Chromium, and a web page that attacks the local cloud."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
REPORT_TIMEOUT_SECONDS = 180
# It reads debugging commands from descriptor 3, where nothing ever arrives.
_KEEP_OPEN = 'exec "$0" "$@" 3<&0 4>/dev/null'

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="no Chromium: `make test` as root installs it, or apt-get install chromium",
)


class Attacker:
    """A web server with one page, which reports its findings back.

    It is also a proxy for one name. The page and the local cloud then have the same origin, as when
    the name of the page's server is changed to point to this machine (DNS rebinding).
    """

    def __init__(self, page: str, *, name: str, behind_name: str) -> None:
        self.reported: dict[str, Any] | None = None
        self.done = threading.Event()
        attacker, host = self, urlsplit(behind_name)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve("GET")

            def do_POST(self) -> None:
                self._serve("POST")

            def _serve(self, method: str) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = self.rfile.read(length)
                target = urlsplit(self.path)
                if target.path == "/page":
                    self._answer(200, page.encode())
                elif target.path == "/report":
                    attacker.reported = json.loads(body)
                    attacker.done.set()
                    self._answer(200, b"")
                elif target.hostname == name:
                    self._forward(method, target.path, body)
                else:
                    self._answer(404, b"")

            def _forward(self, method: str, path: str, body: bytes) -> None:
                connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=240)
                connection.request(method, path, body, dict(self.headers.items()))
                got = connection.getresponse()
                self._answer(got.status, got.read())
                connection.close()

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def chromium(url: str, *options: str) -> Iterator[None]:
    """Open a page in a browser with its own profile, until the block ends."""
    assert CHROMIUM is not None, "CI is set, and there is no Chromium: `make system-packages`"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        output = Path(profile, "output")
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [
                    *("sh", "-c", _KEEP_OPEN, CHROMIUM),
                    "--headless",
                    "--no-sandbox",  # root has none, nor do most containers
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--no-first-run",
                    "--disable-background-networking",
                    f"--user-data-dir={profile}/profile",
                    "--remote-debugging-pipe",  # stays open, and listens on no port
                    *options,
                    url,
                ],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
            )
        try:
            yield
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}: {output.read_text(errors='replace')[-2000:]}") from exc
        finally:
            process.terminate()
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_report(attacker: Attacker) -> dict[str, Any]:
    if not attacker.done.wait(REPORT_TIMEOUT_SECONDS):
        raise TimeoutError("the page did not report")
    assert attacker.reported is not None
    return attacker.reported
