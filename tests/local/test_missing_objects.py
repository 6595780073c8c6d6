"""S3 admits that an object is missing only to those who may list the whole bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.aws.missing_objects import distinguish_missing
from tests.local.clouds import Cloud, unique

pytestmark = pytest.mark.slow

KEY = "runs/a/missing"
CALLS: dict[str, Callable[[Any, str], Any]] = {
    "get": lambda s3, bucket: s3.get_object(Bucket=bucket, Key=KEY),
    "head": lambda s3, bucket: s3.head_object(Bucket=bucket, Key=KEY),
}


@pytest.fixture
def bucket(strict_cloud: Cloud) -> str:
    name = unique("missing")
    strict_cloud.client("s3").create_bucket(Bucket=name)
    return name


def allow(action: str, resource: str, **condition: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action, "Resource": f"arn:aws:s3:::{resource}"}
    return statement | ({"Condition": condition} if condition else {})


def client(cloud: Cloud, bucket: str, *statements: dict[str, Any]) -> Any:
    role = cloud.role(allow("s3:GetObject", f"{bucket}/*"), *statements)
    return cloud.client("s3", **cloud.assume(role))


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


@pytest.mark.parametrize("call", CALLS)
def test_the_permission_to_list_decides(strict_cloud: Cloud, bucket: str, call: str) -> None:
    whole = client(strict_cloud, bucket, allow("s3:ListBucket", bucket))
    limited = client(
        strict_cloud,
        bucket,
        allow("s3:ListBucket", bucket, StringLike={"s3:prefix": "runs/a/*"}),
    )
    none = client(strict_cloud, bucket)
    assert code_of(lambda: CALLS[call](whole, bucket)) in {"NoSuchKey", "404"}
    for refused in (limited, none):
        assert code_of(lambda s3=refused: CALLS[call](s3, bucket)) in {"AccessDenied", "403"}


def test_a_session_of_a_run_distinguishes_what_is_missing(strict_cloud: Cloud, bucket: str) -> None:
    listing = allow("s3:ListBucket", bucket, StringLike={"s3:prefix": "runs/a/*"})
    s3 = client(strict_cloud, bucket, listing)
    distinguish_missing(s3)
    assert code_of(lambda: s3.get_object(Bucket=bucket, Key=KEY)) == "NoSuchKey"
    assert code_of(lambda: s3.get_object(Bucket=bucket, Key="runs/b/x")) == "AccessDenied"


def test_what_is_there_is_not_affected(strict_cloud: Cloud, bucket: str) -> None:
    strict_cloud.client("s3").put_object(Bucket=bucket, Key=KEY, Body=b"x")
    s3 = client(strict_cloud, bucket)
    assert s3.get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"x"
    assert s3.head_object(Bucket=bucket, Key=KEY)["ContentLength"] == 1
