"""The endpoint where a trainer that requests AWS credentials gets them."""

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runctl.agent.reporting.progress import Progress
from runctl.model.errors import RunctlError
from runctl.model.session_credentials import SessionCredentials

PATH = "/credentials"
# SDKs ask for new ones when less than 15 minutes are left, so they must be there before.
RENEW_BEFORE = timedelta(minutes=20)
RETRY = timedelta(seconds=20)
# Seconds for a request: no client may occupy a thread for longer.
TIMEOUT = 5
UNTIL_CLOSED = 0.1

logger = logging.getLogger(__name__)


class CredentialsEndpoint:
    """Serves a run's credentials on 127.0.0.1 to clients that have the token, and renews them.

    The protocol is that of container credentials, which every AWS SDK supports. Answers come from
    memory, since an SDK waits for a second or two only. No secret is logged.
    """

    def __init__(
        self,
        fetch: Callable[[], SessionCredentials],
        *,
        progress: Progress,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._fetch = fetch
        self._progress = progress
        self._now = now
        self._token = secrets.token_urlsafe(32)
        self._held: SessionCredentials | None = None
        self._stop = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Get the first credentials and serve them. Shows, then raises, the errors of `fetch`."""
        self._get()
        endpoint = self

        class Handler(_Handler):
            answer = staticmethod(endpoint._answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, args=(UNTIL_CLOSED,), name="credentials", daemon=True
        ).start()
        threading.Thread(target=self._renew, name="credentials-renewal", daemon=True).start()

    def as_environment(self) -> dict[str, str]:
        """Return the variables by which an SDK finds the endpoint."""
        if self._server is None:
            return {}
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": (
                f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"
            ),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self._token,
        }

    def close(self) -> None:
        """Stop serving."""
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str]]:
        if authorization is None:
            return 401, _problem("Unauthorized", "the header Authorization is missing")
        if not hmac.compare_digest(authorization.encode(), self._token.encode()):
            return 403, _problem("AccessDenied", "the token is wrong")
        if path != PATH:
            return 404, _problem("NotFound", f"only {PATH} exists")
        held = self._held
        if held is None or held.expires_at <= self._now():
            return 503, _problem("Unavailable", "no credentials are available now")
        return 200, held.as_document()

    def _renew(self) -> None:
        due = self._until_renewal()
        while not self._stop.wait(due):
            try:
                self._get()
            except RunctlError:
                due = RETRY.total_seconds()
            else:
                due = self._until_renewal()

    def _get(self) -> None:
        try:
            self._held = self._fetch()
        except RunctlError as exc:
            problem = f"the trainer's credentials cannot be fetched: {exc}"
            if self._progress.warn(problem, about="credentials"):
                logger.warning("%s", problem)
            raise
        self._progress.warn("", about="credentials")
        logger.info("the trainer's credentials are valid until %s", self._held.expires_at)

    def _until_renewal(self) -> float:
        """Return the seconds until the credentials have to be renewed."""
        if self._held is None:
            return 0
        left = self._held.expires_at - self._now() - RENEW_BEFORE
        return max(left.total_seconds(), RETRY.total_seconds())


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT
    answer: Callable[[str, str | None], tuple[int, dict[str, str]]]

    def do_GET(self) -> None:
        status, document = self.answer(self.path, self.headers.get("Authorization"))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Log nothing: a request line could contain a secret that a client put there by mistake."""


def _problem(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}
