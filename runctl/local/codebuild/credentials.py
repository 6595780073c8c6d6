"""The credentials of a build's service role, which its programs get as containers do on AWS.

The address is in their environment, in the variables that all SDKs read. Other users of the machine
reach the port, but neither is their connection accepted, nor do they know the token.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from runctl.local.core import peers

_LIFETIME = timedelta(hours=1)


@contextlib.contextmanager
def served(session: Mapping[str, str], role: str) -> Iterator[dict[str, str]]:
    """Serve a role's session keys; yield the variables with which SDKs find them."""
    token = secrets.token_urlsafe(32)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            server = self.request.getsockname()
            is_own = peers.is_own(self.client_address, server)
            is_known = is_own and hmac.compare_digest(given.encode(), token.encode())
            body = json.dumps(_document(session, role) if is_known else {"code": "Forbidden"})
            self.send_response(200 if is_known else 403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing: the log of the local cloud is for its own problems."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": (
                    f"http://127.0.0.1:{server.server_address[1]}/v2/credentials"
                ),
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
            }
        finally:
            server.shutdown()


def _document(session: Mapping[str, str], role: str) -> dict[str, str]:
    expiry = datetime.now(timezone.utc) + _LIFETIME
    return {
        "RoleArn": role,
        "AccessKeyId": session["AWS_ACCESS_KEY_ID"],
        "SecretAccessKey": session["AWS_SECRET_ACCESS_KEY"],
        "Token": session["AWS_SESSION_TOKEN"],
        "Expiration": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
