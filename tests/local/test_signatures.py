"""Every form of an AWS signature, against a local cloud that does not enforce policies yet."""

from __future__ import annotations

import hashlib
import hmac
import http.client
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud, unique

pytestmark = pytest.mark.slow

STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
CALL = "Action=GetCallerIdentity&Version=2011-06-15"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

# The call, and AWS's codes for a missing signature, an unknown key and a wrong secret.
SERVICES: list[tuple[str, Callable[[Any], Any], str, str, str]] = [
    (
        "sts",
        lambda sts: sts.get_caller_identity(),
        "MissingAuthenticationToken",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
    ),
    (
        "cloudformation",
        lambda cloudformation: cloudformation.list_stacks(),
        "MissingAuthenticationToken",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
    ),
    (
        "dynamodb",
        lambda dynamodb: dynamodb.list_tables(),
        "MissingAuthenticationToken",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    ),
    (
        "lambda",
        lambda functions: functions.list_functions(),
        "MissingAuthenticationToken",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    ),
    (
        "ssm",
        lambda ssm: ssm.describe_instance_information(),
        "MissingAuthenticationToken",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    ),
    (
        "s3",
        lambda s3: s3.list_buckets(),
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
    ),
    (
        "ec2",
        lambda ec2: ec2.describe_instances(),
        # Without a signature, nothing names the service; on AWS, the host does.
        "MissingAuthenticationToken",
        "AuthFailure",
        "AuthFailure",
    ),
]


def administrator(cloud: Cloud) -> Credentials:
    own = cloud.endpoint.keys
    return Credentials(own.access_key_id, own.secret_access_key)


@pytest.mark.parametrize(
    ("service", "call", "unsigned", "unknown", "wrong"), SERVICES, ids=[row[0] for row in SERVICES]
)
def test_unauthenticated_request_is_refused_like_by_the_service(
    cloud: Cloud,
    service: str,
    call: Callable[[Any], Any],
    unsigned: str,
    unknown: str,
    wrong: str,
) -> None:
    assert not cloud.admin.health()["enforced"]
    own = cloud.endpoint.keys
    anonymous = boto3.client(
        service,
        endpoint_url=cloud.endpoint.url,
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1}),
    )
    with pytest.raises(ClientError, match=unsigned):
        call(anonymous)
    for key in ("test", "000000000000", "AKIAIOSFODNN7EXAMPLE"):
        stranger = cloud.client(service, aws_access_key_id=key, aws_secret_access_key="test")
        with pytest.raises(ClientError, match=unknown):
            call(stranger)
    guessed = cloud.client(
        service, aws_access_key_id=own.access_key_id, aws_secret_access_key="test"
    )
    with pytest.raises(ClientError, match=wrong):
        call(guessed)
    call(cloud.client(service))


def test_session_needs_its_own_token(cloud: Cloud) -> None:
    keys = cloud.assume(cloud.role())
    other = cloud.assume(cloud.role())
    assert "assumed-role" in cloud.client("sts", **keys).get_caller_identity()["Arn"]
    without = {name: value for name, value in keys.items() if name != "aws_session_token"}
    for given in (
        without,
        keys | {"aws_session_token": other["aws_session_token"]},
        keys | {"aws_secret_access_key": other["aws_secret_access_key"]},
    ):
        with pytest.raises(ClientError, match=r"InvalidClientTokenId|SignatureDoesNotMatch"):
            cloud.client("sts", **given).get_caller_identity()


def send(
    cloud: Cloud, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(cloud.endpoint.url).netloc, timeout=240)
    try:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def sign(
    cloud: Cloud,
    body: bytes = CALL.encode(),
    *,
    service: str = "sts",
    method: str = "POST",
    path: str = "/",
    headers: dict[str, str] | None = None,
) -> dict[str, str]:
    host = urlsplit(cloud.endpoint.url).netloc
    made = AWSRequest(
        method, f"{cloud.endpoint.url}{path}", {"Host": host, **(headers or FORM)}, body
    )
    made.context["payload_signing_enabled"] = True
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    signer(administrator(cloud), service, "us-east-1").add_auth(made)
    return dict(made.headers)


def test_changed_request_is_refused(cloud: Cloud) -> None:
    headers = sign(cloud)
    assert send(cloud, "POST", "/", CALL.encode(), headers)[0] == 200
    authorization = headers["Authorization"]
    changes: list[tuple[str, str, bytes, dict[str, str]]] = [
        ("POST", "/", CALL.replace("2011", "2012").encode(), headers),
        ("POST", "/?Action=GetSessionToken", CALL.encode(), headers),
        ("POST", "/other", CALL.encode(), headers),
        ("PUT", "/", CALL.encode(), headers),
        ("POST", "/", CALL.encode(), headers | {"X-Amz-Date": "20200101T000000Z"}),
        ("POST", "/", CALL.encode(), headers | {"X-Amz-Security-Token": "planted"}),
        (
            "POST",
            "/",
            CALL.encode(),
            headers | {"X-Amz-Content-Sha256": hashlib.sha256(CALL.encode()).hexdigest()[::-1]},
        ),
        ("POST", "/", CALL.encode(), headers | {"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"}),
        (
            "POST",
            "/",
            CALL.encode(),
            headers | {"Authorization": authorization.replace("host;", "")},
        ),
        # Two callers: the signer, and one that the emulator takes for its administrator.
        ("POST", "/?X-Amz-Credential=test/a/b/c/aws4_request", CALL.encode(), headers),
        ("POST", "/?x-amz-credential=test/a/b/c/aws4_request", CALL.encode(), headers),
        ("POST", "/?AWSAccessKeyId=test", CALL.encode(), headers),
        (
            "POST",
            "/",
            CALL.encode(),
            headers
            | {
                "Authorization": headers["Authorization"].replace(
                    " Credential", " Credential=test/a, Credential"
                )
            },
        ),
    ]
    for method, target, body, given in changes:
        status, answer = send(cloud, method, target, body, given)
        assert status in {400, 403}, (method, target, answer)
        assert "GetCallerIdentityResult" not in answer


@pytest.mark.parametrize(
    ("service", "minutes", "accepted"),
    [
        ("sts", 14, True),
        ("sts", 16, False),
        ("sts", -16, False),
        ("ssm", -6, False),
        ("ssm", 4, True),
    ],
)
def test_request_with_a_wrong_clock_is_refused(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, service: str, minutes: int, accepted: bool
) -> None:
    then = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: then.replace(tzinfo=None))
    call: Callable[[], Any] = {
        "sts": cloud.client("sts").get_caller_identity,
        "ssm": cloud.client("ssm").describe_instance_information,
    }[service]
    if accepted:
        call()
    else:
        with pytest.raises(ClientError, match=r"Signature (expired|not yet current)"):
            call()


@pytest.fixture
def bucket(cloud: Cloud) -> str:
    name = unique("bucket")
    cloud.client("s3").create_bucket(Bucket=name)
    return name


def test_presigned_url_works_until_it_expires_or_is_changed(
    cloud: Cloud, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(signature_version="s3v4")
    own = cloud.endpoint.keys
    s3 = boto3.client(
        "s3",
        endpoint_url=cloud.endpoint.url,
        region_name="us-east-1",
        config=config,
        aws_access_key_id=own.access_key_id,
        aws_secret_access_key=own.secret_access_key,
    )
    where = {"Bucket": bucket, "Key": "a b+c/ü"}
    put = s3.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
    assert send(cloud, "PUT", put.removeprefix(cloud.endpoint.url), b"presigned")[0] == 200
    get = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    target = get.removeprefix(cloud.endpoint.url)
    assert send(cloud, "GET", target) == (200, "presigned")
    session = cloud.assume(cloud.role())
    of_session = cloud.client("sts", **session)
    url = of_session.generate_presigned_url("get_caller_identity", HttpMethod="GET")
    assert send(cloud, "GET", url.removeprefix(cloud.endpoint.url))[0] == 200
    long_ago = datetime.now(timezone.utc) - timedelta(seconds=120)
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime", lambda **_: long_ago.replace(tzinfo=None)
    )
    expired = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    status, answer = send(cloud, "GET", expired.removeprefix(cloud.endpoint.url))
    assert (status, "Request has expired" in answer) == (403, True)
    for changed in (
        target.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        target.replace("X-Amz-Expires=60", "X-Amz-Expires=604801"),
        target.replace(own.access_key_id, "test"),
        target.replace(f"/{bucket}/", f"/{bucket}/other"),
        target.partition("&X-Amz-Signature")[0],
        target.replace("X-Amz-Credential", "x-amz-credential"),
        f"{target}&X-Amz-Credential=test%2F20200101%2Fus-east-1%2Fs3%2Faws4_request",
    ):
        assert send(cloud, "GET", changed)[0] in {400, 403}, changed


def test_body_must_match_the_signed_hash(cloud: Cloud, bucket: str) -> None:
    path = f"/{bucket}/key"
    headers = sign(cloud, b"signed", service="s3", method="PUT", path=path, headers={"X": "y"})
    status, answer = send(cloud, "PUT", path, b"sIgned", headers)
    assert (status, "XAmzContentSHA256Mismatch" in answer) == (400, True)
    with pytest.raises(ClientError, match="404"):
        cloud.client("s3").head_object(Bucket=bucket, Key="key")
    assert send(cloud, "PUT", path, b"signed", headers)[0] == 200


def in_chunks(cloud: Cloud, headers: dict[str, str], *chunks: bytes) -> bytes:
    """Encode a body in chunks, each signed with the signature of the previous one."""
    own, date = cloud.endpoint.keys, headers["X-Amz-Date"]
    key = f"AWS4{own.secret_access_key}".encode()
    for word in (date[:8], "us-east-1", "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    before = headers["Authorization"].rpartition("=")[2]
    encoded = b""
    for chunk in (*chunks, b""):
        text = "\n".join(
            [
                "AWS4-HMAC-SHA256-PAYLOAD",
                date,
                f"{date[:8]}/us-east-1/s3/aws4_request",
                before,
                hashlib.sha256(b"").hexdigest(),
                hashlib.sha256(chunk).hexdigest(),
            ]
        )
        before = hmac.digest(key, text.encode(), "sha256").hex()
        encoded += f"{len(chunk):x};chunk-signature={before}\r\n".encode() + chunk + b"\r\n"
    return encoded


def test_body_that_is_signed_in_chunks_is_verified(
    cloud: Cloud, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3SigV4Auth, "payload", lambda *_: STREAMING)
    monkeypatch.setattr(S3SigV4Auth, "_modify_request_before_signing", declare_streaming)
    path = f"/{bucket}/key"
    about = {"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "10"}
    headers = sign(cloud, b"", service="s3", method="PUT", path=path, headers=about)
    monkeypatch.undo()
    body = in_chunks(cloud, headers, b"first", b"other")
    for changed in (
        body.replace(b"first", b"First"),
        body.replace(b"other", b"Other"),
        body[: body.index(b"5;", 5)] + b"0;chunk-signature=" + b"0" * 64 + b"\r\n\r\n",
    ):
        status, answer = send(cloud, "PUT", path, changed, headers)
        assert (status, "SignatureDoesNotMatch" in answer) == (403, True), answer
    assert send(cloud, "PUT", path, body, headers)[0] == 200
    got = cloud.client("s3").get_object(Bucket=bucket, Key="key")["Body"].read()
    assert got == b"firstother"


def declare_streaming(signer: S3SigV4Auth, request: AWSRequest) -> None:
    SigV4Auth._modify_request_before_signing(signer, request)
    request.headers["X-Amz-Content-SHA256"] = STREAMING


def test_unsigned_header_is_refused(cloud: Cloud, bucket: str) -> None:
    path = f"/{bucket}/key"
    headers = sign(cloud, b"x", service="s3", method="PUT", path=path, headers={"X": "y"})
    added = headers | {"X-Amz-Copy-Source": f"{bucket}/other"}
    status, answer = send(cloud, "PUT", path, b"x", added)
    assert (status, "not signed: x-amz-copy-source" in answer) == (403, True)


def test_unsigned_body_reaches_no_service_except_s3(cloud: Cloud) -> None:
    about = {
        "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD",
        "X-Amz-Target": "DynamoDB_20120810.ListTables",
        "Content-Type": "application/x-amz-json-1.0",
    }
    headers = sign(cloud, b"{}", service="s3", headers=about)
    status, answer = send(cloud, "POST", "/", b"{}", headers)
    assert (status, "scoped to correct service" in answer) == (400, True), answer


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.nip.io"])
def test_other_names_are_refused(cloud: Cloud, host: str) -> None:
    headers = {"Host": host, "X-Runctl-Key": cloud.endpoint.keys.admin}
    status, answer = send(cloud, "GET", "/_runctl/health", headers=headers)
    assert (status, "not a name of the local cloud" in answer) == (403, True)


def test_names_of_the_loopback_are_served(cloud: Cloud) -> None:
    port = urlsplit(cloud.endpoint.url).port
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        headers = {"Host": f"{name}:{port}", "X-Runctl-Key": cloud.endpoint.keys.admin}
        assert send(cloud, "GET", "/_runctl/health", headers=headers)[0] == 200


def test_no_web_page_may_read_the_answers(cloud: Cloud, bucket: str) -> None:
    seen: list[str] = []
    s3 = cloud.client("s3")
    s3.meta.events.register(
        "after-call.s3.*", lambda http_response, **_: seen.extend(http_response.headers)
    )
    s3.put_bucket_cors(
        Bucket=bucket,
        CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]},
    )
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    assert seen
    assert not [name for name in seen if name.lower().startswith("access-control-")]
