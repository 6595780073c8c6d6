"""The random keys of one local cloud, in a file that only its owner can read."""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runctl.local.core import private

HEADER = "X-Runctl-Key"
# The path below which the local cloud's own API lies.
ADMIN_PATH = "/_runctl/"
_FILE = "keys.json"
_KEY_ID_ALPHABET = string.ascii_uppercase + string.digits


@dataclass(frozen=True)
class Keys:
    """The proof that a request comes from the owner of the local cloud.

    `admin` is the value of the header that the local cloud's own API requires; the others are the
    AWS credentials of the administrator.
    """

    admin: str = field(repr=False)
    access_key_id: str
    secret_access_key: str = field(repr=False)


def generate() -> Keys:
    """Generate new keys."""
    return Keys(
        admin=secrets.token_urlsafe(32),
        access_key_id="AKIA" + "".join(secrets.choice(_KEY_ID_ALPHABET) for _ in range(16)),
        secret_access_key=secrets.token_urlsafe(30),
    )


def save(home: Path, keys: Keys) -> None:
    """Write the keys to the local cloud's folder."""
    private.write(home / _FILE, json.dumps(asdict(keys)))


def load(home: Path) -> Keys:
    """Read the keys from the local cloud's folder; raise FileNotFoundError if it has none."""
    found = json.loads((home / _FILE).read_text())
    return Keys(
        admin=found["admin"],
        access_key_id=found["access_key_id"],
        secret_access_key=found["secret_access_key"],
    )


def remove(home: Path) -> None:
    """Remove the keys of a local cloud that has ended."""
    (home / _FILE).unlink(missing_ok=True)
