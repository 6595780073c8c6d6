"""Callers of AWS, as STS names them."""

from dataclasses import dataclass

from runctl.model.errors import RunctlError


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A session of a role: its account, the name of the role, and that of the session."""

    account: str
    role: str
    session: str


class BadIdentityError(RunctlError):
    """A proof of an identity that proves nothing; the message says why."""
