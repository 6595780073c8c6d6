"""What opens the registry: passwords of GetAuthorizationToken, and addresses of single layers."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from runctl.local.core.protocol import ApiError

LIFETIME_SECONDS = 12 * 3600
LINK_SECONDS = 3600
USER = "AWS"
# ECR's passwords have about that many characters, too many for some places to put them.
_BYTES = 1700


@dataclass(frozen=True)
class Grant:
    """The caller that a password stands for, and the registry that it opens."""

    access_key: str
    account: str
    region: str
    expires_at: float


@dataclass(frozen=True)
class Link:
    """A layer that can be fetched by its address alone."""

    repository: str
    digest: str
    expires_at: float


class Tokens:
    """The passwords and addresses in use; `clock` returns the seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._grants: dict[str, Grant] = {}
        self._links: dict[str, Link] = {}
        self._lock = threading.Lock()

    def issue(self, *, access_key: str, account: str, region: str) -> tuple[str, Grant]:
        """Return a new password and what it grants."""
        password = secrets.token_urlsafe(_BYTES)
        grant = Grant(access_key, account, region, self._clock() + LIFETIME_SECONDS)
        with self._lock:
            self._grants[password] = grant
        return password, grant

    def grant(self, authorization: str) -> Grant:
        """Return what an Authorization header grants, or refuse it as ECR does."""
        if not authorization:
            raise ApiError("NoCredentials", "no basic auth credentials", status=401)
        scheme, _, encoded = authorization.partition(" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = password = ""
        with self._lock:
            grant = self._grants.get(password)
        if scheme.lower() != "basic" or user != USER or grant is None:
            raise ApiError("InvalidToken", "Your Authorization Token is invalid.")
        if grant.expires_at <= self._clock():
            message = "Your authorization token has expired. Reauthenticate and try again."
            raise ApiError("ExpiredToken", message, status=403)
        return grant

    def link(self, repository: str, digest: str) -> str:
        """Return a secret for the address of a layer, which is valid for an hour."""
        secret = secrets.token_urlsafe(32)
        with self._lock:
            self._links[secret] = Link(repository, digest, self._clock() + LINK_SECONDS)
        return secret

    def linked(self, secret: str) -> Link:
        """Return the layer of an address; refuse one that is unknown or has expired."""
        with self._lock:
            link = self._links.get(secret)
        if link is None or link.expires_at <= self._clock():
            raise ApiError("AccessDenied", "Request has expired", status=403)
        return link
