"""The rules for tags: of any resource, and of those that an instance's metadata can show.

Sources: Using_Tags.html (tag restrictions) and the error that CreateFleet answers for tags that the
metadata cannot show, as https://github.com/aws/karpenter-provider-aws/issues/1527 quotes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from runctl.local.core.protocol import ApiError

# botocore documents 127 characters for a key, the guide 128.
MAX_KEY, MAX_VALUE, MAX_TAGS = 127, 256, 50
_SHOWN_KEY = re.compile(r"[0-9a-zA-Z\-_+=,.@:]{1,255}")
_RESERVED = frozenset({".", "..", "_index"})


def check_tags(tags: Iterable[Mapping[str, Any]], *, kept: Iterable[str] = ()) -> None:
    """Refuse tags that EC2 refuses; `kept` are the keys that the resource already has."""
    keys: set[str] = set()
    for tag in tags:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not 1 <= len(key) <= MAX_KEY:
            raise _invalid(f"Tag key exceeds the maximum length of {MAX_KEY} characters: '{key}'")
        if len(value) > MAX_VALUE:
            raise _invalid(
                f"Tag value exceeds the maximum length of {MAX_VALUE} characters: '{value}'"
            )
        if key.lower().startswith("aws:"):
            raise _invalid(f"Tag keys starting with 'aws:' are reserved for internal use: '{key}'")
        if key in keys:
            raise _invalid(f"Duplicate tag key '{key}' specified.")
        keys.add(key)
    # The tags of AWS itself do not count.
    if len(keys.union(key for key in kept if not key.startswith("aws:"))) > MAX_TAGS:
        raise ApiError(
            "TagLimitExceeded", f"More than {MAX_TAGS} tags are specified for one resource."
        )


def check_shown_keys(keys: Iterable[str]) -> None:
    """Refuse keys that an instance's metadata cannot show."""
    for key in keys:
        if not _SHOWN_KEY.fullmatch(key) or key in _RESERVED:
            raise _invalid(
                f"'{key}' is not a valid tag key. Tag keys must match pattern "
                f"({_SHOWN_KEY.pattern}), and must not be a reserved name ('.', '..', '_index')"
            )


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterValue", message)
