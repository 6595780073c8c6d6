"""Variables of a request that name the package indexes of pip and uv.

They may be references to secrets: an index that requires a login has the password in its address.
"""

import hashlib
import json
from collections.abc import Mapping

INDEX_VARIABLES = frozenset(
    {"PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_NO_INDEX", "PIP_TRUSTED_HOST"}
)


def index_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return those of a request's variables that the installation of its packages needs as well."""
    return {name: value for name, value in env.items() if name in INDEX_VARIABLES}


def with_indexes(fingerprint: bytes, indexes: Mapping[str, str]) -> bytes:
    """Return the fingerprint of a declaration whose packages come from these indexes.

    A password is not part of it if `indexes` refer to secrets.
    """
    if not indexes:
        return fingerprint
    text = json.dumps(sorted(indexes.items()))
    return hashlib.sha256(fingerprint + text.encode()).digest()
