"""The filters and pages of EC2's Describe calls."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from runctl.local.core.protocol import ApiError

MIN_PAGE, MAX_PAGE = 5, 1000


def filters_of(request: Mapping[str, Any]) -> dict[str, list[str]]:
    """Read a request's filters; of several with the same name the last counts."""
    return {item["Name"]: item.get("Values", []) for item in request.get("Filters", [])}


def check_filters(filters: Iterable[str], *, known: Iterable[str], tags: bool = False) -> None:
    """Refuse a filter that the call does not have; `tags`: it has filters by tag."""
    for name in filters:
        if name in known or (tags and (name == "tag-key" or name.startswith("tag:"))):
            continue
        raise ApiError("InvalidParameterValue", f"The filter '{name}' is invalid")


def matches(value: str, patterns: list[str] | None) -> bool:
    """Whether a value matches any of a filter's patterns; without a filter all do."""
    return patterns is None or any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)


def tags_match(tags: Mapping[str, str], name: str, values: list[str]) -> bool:
    """Whether tags match a filter `tag-key` or `tag:KEY`."""
    if name == "tag-key":
        return any(matches(key, values) for key in tags)
    value = tags.get(name.removeprefix("tag:"))
    return value is not None and matches(value, values)


def page(
    rows: list[Any], request: Mapping[str, Any], *, least: int = MIN_PAGE
) -> tuple[list[Any], str | None]:
    """Return the requested page and the token of the next."""
    size = request.get("MaxResults") or MAX_PAGE
    if not least <= size <= MAX_PAGE:
        raise ApiError("InvalidParameterValue", f"MaxResults is not between {least} and {MAX_PAGE}")
    text = request.get("NextToken") or "0"
    if not text.isdigit():
        raise ApiError("InvalidNextToken", "The token is invalid")
    start = int(text)
    following = start + size
    return rows[start:following], str(following) if following < len(rows) else None
