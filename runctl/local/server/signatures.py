"""Signature version 4 in all its forms: who signed a request, verified before anything is done.

The emulator behind accepts several keys, such as `test` or any account id, for its administrator
without checking their secrets. No request with one of them passes here.

Sources: "AWS Signature Version 4 for API requests" in the IAM User Guide; "Authenticating Requests"
in the Amazon S3 API Reference, for presigned URLs and bodies signed in chunks.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ministack.core import iam_evaluator, sigv4
from ministack.core.sigv4 import HeaderSignature

from runctl.local.core.keys import Keys

_ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    rf"{_ALGORITHM} +Credential=([A-Za-z0-9]+)/(\d{{8}})/([a-z0-9-]+)/([a-z0-9.-]+)/aws4_request, *"
    r"SignedHeaders=([^,\s=]+), *Signature=([0-9a-f]{64})"
)
_UNSIGNED = "UNSIGNED-PAYLOAD"
_UNSIGNED_CHUNKS = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
_MAX_PRESIGNED_SECONDS = 604800
_SKEW = timedelta(minutes=15)
# In any case: the emulator reads both spellings.
_QUERY_CREDENTIALS = frozenset(
    {"x-amz-algorithm", "x-amz-credential", "x-amz-signature", "awsaccesskeyid"}
)
_ROOT_KEYS = re.compile(r"|test|\d{12}")


class Refusal(Exception):  # noqa: N818 - it is what the caller gets
    """A signature that does not prove who sent the request; `code` is what AWS answers."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


@dataclass(frozen=True)
class Request:
    """A request as it was sent, with the names of headers in lower case."""

    method: str
    raw_path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Signed:
    """A request whose signature is valid, if its body matches `payload_hash`."""

    request: Request
    parts: HeaderSignature
    secret: str
    payload_hash: str
    is_presigned: bool

    @property
    def needs_body(self) -> bool:
        """Whether the body is part of what was signed."""
        return self.payload_hash not in {_UNSIGNED, _UNSIGNED_CHUNKS}

    def check_body(self, body: bytes) -> None:
        """Raise Refusal unless the body is the one that was signed."""
        if self.payload_hash.startswith(_SIGNED_CHUNKS):
            key = _key(self.secret, self.parts)
            if not sigv4._chunk_signatures_match(  # noqa: SLF001 - its only entry checks more
                body, self.parts.signature, self.parts, key
            ):
                raise Refusal("SignatureDoesNotMatch", sigv4.SIGNATURE_MISMATCH)
            return
        actual = hashlib.sha256(body).hexdigest()
        if self.payload_hash:
            if self.parts.service != "s3" and actual != self.payload_hash:
                raise Refusal("SignatureDoesNotMatch", sigv4.SIGNATURE_MISMATCH)
            if actual != self.payload_hash:
                raise Refusal(
                    "XAmzContentSHA256Mismatch",
                    "The provided 'x-amz-content-sha256' header does not match what was computed.",
                )
            return
        _compare(self, actual, body)


def verify(request: Request, keys: Keys, *, now: datetime, account: str) -> Signed:
    """Determine who signed a request; raise Refusal unless this cloud knows the signer.

    A signed body still has to be checked, with `check_body`.
    """
    query = request.query
    authorization = request.headers.get("authorization", "")
    names = {name.lower() for name in query}
    is_presigned = not names.isdisjoint(_QUERY_CREDENTIALS)
    if not authorization and not is_presigned:
        raise Refusal("MissingAuthenticationToken", "Request is missing Authentication Token")
    if authorization and is_presigned:
        # Otherwise, the next reader would have to choose between two callers.
        raise Refusal("IncompleteSignature", "Only one auth mechanism allowed")
    parts = _from_query(query) if is_presigned else _from_header(request.headers)
    if parts.service == "s3" and "x-amz-target" in request.headers:
        # Only S3 accepts unsigned bodies, and no other service accepts S3's signatures.
        raise Refusal("SignatureDoesNotMatch", "Credential should be scoped to correct service.")
    _check_time(parts, query, now=now, is_presigned=is_presigned)
    _check_signed_headers(parts, request)
    token = (query.get("X-Amz-Security-Token") or [""])[0] if is_presigned else ""
    token = token or request.headers.get("x-amz-security-token", "")
    secret = _secret_of(parts.access_key_id, token, keys, account)
    signed = Signed(
        request=request,
        parts=parts,
        secret=secret,
        payload_hash=_payload_hash(request, parts, is_presigned=is_presigned),
        is_presigned=is_presigned,
    )
    if signed.payload_hash:
        _compare(signed, signed.payload_hash, b"")
    return signed


def _from_header(headers: Mapping[str, str]) -> HeaderSignature:
    match = _AUTHORIZATION.fullmatch(headers["authorization"])
    if match is None:
        raise Refusal(
            "IncompleteSignature",
            f"Authorization header requires '{_ALGORITHM}' with 'Credential', 'SignedHeaders' and "
            "'Signature' parameters.",
        )
    date = headers.get("x-amz-date", "")
    if not date:
        raise Refusal(
            "IncompleteSignature", "Authorization header requires existence of 'X-Amz-Date' header."
        )
    return HeaderSignature(*match.groups(), amz_date=date)


def _from_query(query: Mapping[str, list[str]]) -> HeaderSignature:
    for name, values in query.items():
        lower = name.lower()
        misspelled = lower in _QUERY_CREDENTIALS and not name.startswith("X-Amz-")
        if misspelled or (lower.startswith("x-amz-") and len(values) > 1):
            raise Refusal("IncompleteSignature", f"AWS query-string parameter '{name}' is invalid.")
    if query.get("X-Amz-Algorithm") != [_ALGORITHM]:
        raise Refusal("IncompleteSignature", f"X-Amz-Algorithm only supports '{_ALGORITHM}'")
    found = sigv4.parse_query_signature(query)
    if isinstance(found, tuple):
        raise Refusal(*found)
    return found


def _check_time(
    parts: HeaderSignature, query: Mapping[str, list[str]], *, now: datetime, is_presigned: bool
) -> None:
    signed_at = sigv4._amz_datetime(parts.amz_date)  # noqa: SLF001 - strptime takes 30 µs
    if signed_at is None:
        raise Refusal("IncompleteSignature", "Date must be in ISO-8601 'basic format'.")
    if parts.date_stamp != parts.amz_date[:8]:
        raise Refusal(
            "SignatureDoesNotMatch",
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from "
            "HTTP.",
        )
    if is_presigned and parts.service == "s3":
        seconds = (query.get("X-Amz-Expires") or [""])[0]
        if not seconds.isascii() or not seconds.isdigit() or int(seconds) > _MAX_PRESIGNED_SECONDS:
            raise Refusal(
                "IncompleteSignature", "X-Amz-Expires must be a number of seconds up to 604800"
            )
        if now > signed_at + timedelta(seconds=int(seconds)):
            raise Refusal("RequestExpired", "Request has expired")
        if signed_at > now + _SKEW:
            raise Refusal("RequestTimeTooSkewed", "Request is not yet valid")
    elif skewed := sigv4.request_time_failure(parts, now=now):
        raise Refusal(*skewed)


def _check_signed_headers(parts: HeaderSignature, request: Request) -> None:
    signed = parts.signed_headers.split(";")
    if "host" not in signed:
        raise Refusal(
            "SignatureDoesNotMatch", "'Host' must be a 'SignedHeader' in the AWS Authorization."
        )
    if parts.service != "s3":
        return
    for name in request.headers:
        if name.startswith("x-amz-") and name not in signed:
            raise Refusal(
                "AccessDenied",
                f"There were headers present in the request which were not signed: {name}",
            )


def _secret_of(access_key_id: str, token: str, keys: Keys, account: str) -> str:
    """Return the secret of an access key; raise Refusal if it or its token is unknown."""
    if hmac.compare_digest(access_key_id, keys.access_key_id) and not token:
        return keys.secret_access_key
    unknown = Refusal(
        "InvalidClientTokenId", "The security token included in the request is invalid."
    )
    if _ROOT_KEYS.fullmatch(access_key_id) or access_key_id == keys.access_key_id:
        raise unknown
    try:
        owner = iam_evaluator.find_iam_access_key_account(access_key_id) or account
        found = iam_evaluator.resolve_credential(access_key_id, owner, token)
    except iam_evaluator.AmbiguousAccessKeyError:
        raise unknown from None
    if isinstance(found, iam_evaluator.CredentialResolutionError):
        if found.code == "ExpiredTokenException":
            raise Refusal(found.code, found.message)
        if found.code == "InvalidToken" and token:
            raise Refusal("InvalidToken", "The security token included in the request is invalid")
        raise unknown
    return str(found.secret_access_key)


def _payload_hash(request: Request, parts: HeaderSignature, *, is_presigned: bool) -> str:
    """Return what was signed in place of the body; empty if it is the body's own hash."""
    stated = request.headers.get("x-amz-content-sha256", "")
    if parts.service != "s3":
        if stated and not re.fullmatch(r"[0-9a-f]{64}", stated):
            raise Refusal("SignatureDoesNotMatch", sigv4.SIGNATURE_MISMATCH)
        return stated
    if is_presigned:
        return _UNSIGNED
    if not stated:
        raise Refusal(
            "InvalidRequest", "Missing required header for this request: x-amz-content-sha256"
        )
    known = {_UNSIGNED, _UNSIGNED_CHUNKS, _SIGNED_CHUNKS, f"{_SIGNED_CHUNKS}-TRAILER"}
    if stated not in known and not re.fullmatch(r"[0-9a-f]{64}", stated):
        raise Refusal(
            "InvalidRequest",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-… or a valid sha256 value.",
        )
    return stated


def _compare(signed: Signed, payload_hash: str, body: bytes) -> None:
    request, parts = signed.request, signed.parts
    headers = request.headers
    if "x-amz-content-sha256" not in headers:
        headers = {**headers, "x-amz-content-sha256": payload_hash}
    _, text = sigv4.header_signing_documents(
        parts,
        request.method,
        request.raw_path,
        request.query,
        headers,
        body,
        presigned=signed.is_presigned,
    )
    expected = hmac.digest(_key(signed.secret, parts), text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected, parts.signature):
        raise Refusal("SignatureDoesNotMatch", sigv4.SIGNATURE_MISMATCH)


def _key(secret: str, parts: HeaderSignature) -> bytes:
    return bytes(
        sigv4._cached_signing_key(  # noqa: SLF001
            secret, parts.date_stamp, parts.region, parts.service
        )
    )
