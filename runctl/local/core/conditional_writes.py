"""Conditional writes to S3: their condition keys for policies, and the one condition S3 accepts.

Sources: "Enforce conditional writes on Amazon S3 buckets" and "How to prevent object overwrites
with conditional writes" in the Amazon S3 User Guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ministack.core import iam_actions
from ministack.services import s3

_CONDITIONS = ("if-none-match", "if-match")


def install() -> None:
    """Give policies the keys of conditional writes, which the emulator does not know."""
    context_of = iam_actions._s3_object_context  # noqa: SLF001 - its only hook
    check = s3._check_put_preconditions  # noqa: SLF001

    def with_conditions(
        action: str, query: Mapping[str, Any], path: str, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        return {**context_of(action, query, path, headers), **conditions_of(action, query, headers)}

    def checked(headers: Mapping[str, str], existing: Any) -> Any:
        stated = headers.get("if-none-match", "").strip()
        if stated and stated != "*":
            return s3._error(  # noqa: SLF001
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
                501,
            )
        return check(headers, existing)

    iam_actions._s3_object_context = with_conditions  # noqa: SLF001
    s3._check_put_preconditions = checked  # noqa: SLF001


def conditions_of(
    action: str, query: Mapping[str, Any], headers: Mapping[str, str]
) -> dict[str, str]:
    """Return the condition keys of a request that is authorized as `s3:PutObject`.

    Starting a multipart upload and sending its parts need the same permission, but create no
    object, and have no conditional header.
    """
    if action != "s3:PutObject":
        return {}
    creates = "uploads" not in query and "partNumber" not in query
    found = {"s3:ObjectCreationOperation": str(creates).lower()}
    if creates:
        found |= {f"s3:{name}": headers[name] for name in _CONDITIONS if headers.get(name)}
    return found
