"""A request is signed as botocore signs it."""

from __future__ import annotations

import string
from datetime import datetime, timezone
from unittest import mock

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from runctl.aws.fast_s3.sigv4 import Signer

WORDS = st.text(string.ascii_letters + string.digits + "+/=", min_size=1, max_size=40)
KEYS = st.text(string.ascii_letters + string.digits + "-_./", min_size=1, max_size=60)
TIMES = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001
    max_value=datetime(2099, 1, 1),  # noqa: DTZ001
    timezones=st.just(timezone.utc),
)


def botocores(
    method: str, path: str, checksum: str, credentials: Credentials, at: datetime
) -> dict[str, str]:
    request = AWSRequest(
        method, f"https://bucket.s3.amazonaws.com{path}", {"x-amz-checksum-sha256": checksum}
    )
    request.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    with mock.patch("botocore.auth.get_current_datetime", return_value=at.replace(tzinfo=None)):
        S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@given(
    method=st.sampled_from(["PUT", "GET"]),
    key=KEYS,
    checksum=WORDS,
    access_key=WORDS,
    secret_keys=st.lists(WORDS, min_size=2, max_size=2),
    token=st.none() | WORDS,
    times=st.lists(TIMES, min_size=2, max_size=2),
)
def test_signature_matches_that_of_botocore_with_another_key_and_on_another_day_too(
    method: str,
    key: str,
    checksum: str,
    access_key: str,
    secret_keys: list[str],
    token: str | None,
    times: list[datetime],
) -> None:
    signer = Signer(region="eu-west-1", service="s3")
    headers = {"host": "bucket.s3.amazonaws.com", "x-amz-checksum-sha256": checksum}
    for secret_key in secret_keys:
        credentials = Credentials(access_key, secret_key, token)
        for at in times:
            signed = signer.sign(method, f"/{key}", headers, credentials, at=at)
            expected = botocores(method, f"/{key}", checksum, credentials, at)
            assert {name: signed[name] for name in expected} == expected
