"""A bucket policy that demands `If-None-Match` holds against every way to write an object."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud, unique

pytestmark = pytest.mark.slow

KEY = "environments/parts/x"


@pytest.fixture
def bucket(strict_cloud: Cloud) -> str:
    name = unique("once")
    s3 = strict_cloud.client("s3")
    s3.create_bucket(Bucket=name)
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{name}/environments/*",
        "Condition": {"Null": {"s3:if-none-match": "true"}},
    }
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    return name


@pytest.fixture
def s3(strict_cloud: Cloud) -> Any:
    role = strict_cloud.role({"Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    return strict_cloud.client("s3", **strict_cloud.assume(role))


def multipart(s3: Any, bucket: str, key: str, **completion: Any) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    where = {"Bucket": bucket, "Key": key, "UploadId": upload}
    part = s3.upload_part(**where, PartNumber=1, Body=b"evil")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, **completion)


WRITES: dict[str, Callable[[Any, str], Any]] = {
    "put": lambda s3, bucket: s3.put_object(Bucket=bucket, Key=KEY, Body=b"evil"),
    "put if it matches": lambda s3, bucket: s3.put_object(
        Bucket=bucket, Key=KEY, Body=b"evil", IfMatch=s3.head_object(Bucket=bucket, Key=KEY)["ETag"]
    ),
    "put unless it has another tag": lambda s3, bucket: s3.put_object(
        Bucket=bucket, Key=KEY, Body=b"evil", IfNoneMatch='"0123"'
    ),
    "put unless it exists": lambda s3, bucket: s3.put_object(
        Bucket=bucket, Key=KEY, Body=b"evil", IfNoneMatch="*"
    ),
    "multipart upload": lambda s3, bucket: multipart(s3, bucket, KEY),
    "conditional multipart upload": lambda s3, bucket: multipart(s3, bucket, KEY, IfNoneMatch="*"),
    "copy": lambda s3, bucket: s3.copy_object(
        Bucket=bucket, Key=KEY, CopySource={"Bucket": bucket, "Key": "elsewhere"}
    ),
}


@pytest.mark.parametrize("how", WRITES)
def test_what_was_written_once_cannot_be_replaced(
    strict_cloud: Cloud, bucket: str, s3: Any, how: str
) -> None:
    admin = strict_cloud.client("s3")
    admin.put_object(Bucket=bucket, Key="elsewhere", Body=b"evil")
    s3.put_object(Bucket=bucket, Key=KEY, Body=b"good", IfNoneMatch="*")
    with pytest.raises(ClientError) as refused:
        WRITES[how](s3, bucket)
    expected = {"put unless it exists": "PreconditionFailed"}
    expected["put unless it has another tag"] = "NotImplemented"
    assert refused.value.response["Error"]["Code"] == expected.get(how, "AccessDenied")
    assert admin.get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"good"


def test_other_prefixes_are_not_affected(bucket: str, s3: Any) -> None:
    for body in (b"one", b"two"):
        s3.put_object(Bucket=bucket, Key="runs/a", Body=body)
    multipart(s3, bucket, "runs/a")
    assert s3.get_object(Bucket=bucket, Key="runs/a")["Body"].read() == b"evil"


def test_multipart_uploads_can_be_exempted_until_they_create_the_object(
    strict_cloud: Cloud, bucket: str, s3: Any
) -> None:
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": {
            "Null": {"s3:if-none-match": "true"},
            "Bool": {"s3:ObjectCreationOperation": "true"},
        },
    }
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    strict_cloud.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    with pytest.raises(ClientError, match="AccessDenied"):
        multipart(s3, bucket, "a")
    multipart(s3, bucket, "a", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        multipart(s3, bucket, "a", IfNoneMatch="*")
