# ruff: noqa: SLF001 - it answers with ministack's errors
"""Objects that do not exist: S3 admits it only to those who may list the whole bucket.

Source: "GetObject" and "HeadObject" in the Amazon S3 API Reference. The request has no prefix, so a
permission to list that depends on one does not count.
"""

from __future__ import annotations

from typing import Any

from ministack import app as ministack
from ministack.core import iam_evaluator, router
from ministack.services import s3

from runctl.local.core import iam, records

Answer = tuple[int, dict[str, Any], Any]


def install() -> None:
    """Change how ministack answers requests for missing objects, once."""
    handle = ministack.SERVICE_HANDLERS["s3"]

    async def handle_request(
        method: str, path: str, headers: dict[str, str], content: bytes, query: Any
    ) -> Answer:
        answer: Answer = await handle(method, path, headers, content, query)
        if answer[0] != 404 or method not in {"GET", "HEAD"} or not iam.is_enforced():
            return answer
        bucket, _, key = path.lstrip("/").partition("/")
        if not key or bucket not in s3._buckets or _may_list(bucket, headers, query):
            return answer
        refusal: Answer = s3._error("AccessDenied", "Access Denied", 403, path)
        return refusal if method == "GET" else (*refusal[:2], b"")

    ministack.SERVICE_HANDLERS["s3"] = handle_request


def _may_list(bucket: str, headers: dict[str, str], query: Any) -> bool:
    denied = iam_evaluator.enforce(
        router.extract_access_key_id(headers, query),
        "s3:ListBucket",
        "s3",
        records.region(),
        resource_arn=f"arn:aws:s3:::{bucket}",
        service_context={},
    )
    return denied is None
