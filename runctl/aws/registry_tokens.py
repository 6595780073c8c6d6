"""Logins for ECR: tokens of twelve hours."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runctl.aws.errors import translated
from runctl.model.errors import UnexpectedAwsError


@dataclass(frozen=True, kw_only=True)
class RegistryToken:
    """A login for every ECR registry of a region that the role may read."""

    user: str
    password: str = field(repr=False)
    expires_at: datetime


class RegistryTokens:
    """Gets tokens; `client` makes the client of a service in a region."""

    def __init__(self, client: Callable[[str, str], Any]) -> None:
        self._client = client

    def fetch(self, region: str) -> RegistryToken:
        """Return a new token for the registries of a region.

        Raises RefusedError without the permission, and TransientError if ECR throttles or cannot
        be reached. A lost answer costs nothing: an unused token expires.
        """
        with translated():
            found = self._client("ecr", region).get_authorization_token()["authorizationData"]
        try:
            user, _, password = (
                base64.b64decode(found[0]["authorizationToken"]).decode().partition(":")
            )
            expires_at = found[0]["expiresAt"]
        except (binascii.Error, UnicodeDecodeError, IndexError, KeyError) as exc:
            raise UnexpectedAwsError(f"ECR's token cannot be read: {exc}") from exc
        return RegistryToken(user=user, password=password, expires_at=expires_at)
