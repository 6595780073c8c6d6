"""S3 keeps the contents of objects on disk, once each, and only as long as something needs them."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.local import daemon
from runctl.local.client import LocalCloudClient, LocalCloudError
from tests.local.clouds import Cloud, eventually, packed, unique

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024
LONG = random.Random(1).randbytes(3 * MIB + 7)


@pytest.fixture
def s3(cloud: Cloud) -> Any:
    return cloud.client("s3")


@pytest.fixture
def bucket(s3: Any) -> str:
    name = unique("bucket")
    s3.create_bucket(Bucket=name)
    return name


def read(s3: Any, bucket: str, key: str, **fields: Any) -> bytes:
    content: bytes = s3.get_object(Bucket=bucket, Key=key, **fields)["Body"].read()
    return content


def dates(s3: Any, bucket: str) -> dict[str, datetime]:
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    return {each["Key"]: each["LastModified"] for each in listed}


def stored(cloud: Cloud) -> int:
    """Return the size of all contents on disk."""
    return sum(path.stat().st_size for path in (cloud.endpoint.home / "s3").iterdir())


def wait_until_stored(cloud: Cloud, size: int) -> None:
    eventually(lambda: stored(cloud) == size)


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_objects_with_a_prefix_are_dated_back_and_no_others(
    cloud: Cloud, s3: Any, bucket: str
) -> None:
    for key in ("a/x", "a/y", "b"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    before = dates(s3, bucket)
    assert cloud.admin.make_objects_older(bucket, "a/", days=1.5) == 2
    after = dates(s3, bucket)
    aged = {key: before[key] - after[key] for key in before}
    assert aged["b"] == timedelta(0)
    for key in ("a/x", "a/y"):
        assert timedelta(days=1.5) <= aged[key] < timedelta(days=1.5, seconds=1)
        assert s3.head_object(Bucket=bucket, Key=key)["LastModified"] == after[key]
    for days, wanted, said in ((0, bucket, "older_by_days"), (1, "none", "'none' does not exist")):
        with pytest.raises(LocalCloudError, match=said):
            cloud.admin.make_objects_older(wanted, "a/", days=days)


@pytest.mark.parametrize("size", [0, 1, 4 * KIB, 4 * KIB + 1, MIB, MIB + 1, 3 * MIB + 7])
def test_an_object_of_any_size_is_read_back(s3: Any, bucket: str, size: int) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=LONG[:size], Metadata={"a": "b"})
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == LONG[:size]
    assert (got["ContentLength"], got["Metadata"]) == (size, {"a": "b"})
    assert put["ETag"] == got["ETag"] == f'"{hashlib.md5(LONG[:size]).hexdigest()}"'
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == size


@pytest.mark.parametrize(
    ("asked", "first", "after"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-1999", 100, 2000),
        ("bytes=5-2000000", 5, 2_000_001),
        ("bytes=3145730-", 3145730, len(LONG)),
        ("bytes=-5", len(LONG) - 5, len(LONG)),
        ("bytes=3145000-99999999", 3145000, len(LONG)),
    ],
)
def test_a_range_is_read(s3: Any, bucket: str, asked: str, first: int, after: int) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=LONG)
    got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert got["Body"].read() == LONG[first:after]
    assert got["ContentRange"] == f"bytes {first}-{after - 1}/{len(LONG)}"
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={len(LONG)}-")
    assert code_of(caught) == "InvalidRange"


@pytest.mark.parametrize(
    "key",
    ["..", "../../etc/passwd", "a//b/", "/", "a\nb", "é/☃", "%2e%2e", "x" * 1000, ".tmp", "0"],
)
def test_any_key_names_its_own_object(s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=LONG)
    s3.put_object(Bucket=bucket, Key=key + "/b", Body=LONG[:5000])
    assert read(s3, bucket, key) == LONG
    assert read(s3, bucket, key + "/b") == LONG[:5000]


def test_what_is_deleted_or_overwritten_frees_the_disk(cloud: Cloud, s3: Any, bucket: str) -> None:
    before = stored(cloud)
    for key in ("a", "b", "c"):
        s3.put_object(Bucket=bucket, Key=key, Body=LONG)
    wait_until_stored(cloud, before + 3 * len(LONG))
    s3.put_object(Bucket=bucket, Key="a", Body=LONG[:MIB])
    wait_until_stored(cloud, before + 2 * len(LONG) + MIB)
    s3.delete_object(Bucket=bucket, Key="a")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "b"}, {"Key": "c"}]})
    wait_until_stored(cloud, before)


def test_each_version_keeps_its_content_until_it_is_deleted(
    cloud: Cloud, s3: Any, bucket: str
) -> None:
    before = stored(cloud)
    contents = [LONG, LONG[:MIB], LONG[:5000]]
    s3.put_object(Bucket=bucket, Key="k", Body=contents[0])
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = ["null"] + [
        s3.put_object(Bucket=bucket, Key="k", Body=content)["VersionId"] for content in contents[1:]
    ]
    s3.delete_object(Bucket=bucket, Key="k")
    with pytest.raises(ClientError) as caught:
        read(s3, bucket, "k")
    assert code_of(caught) == "NoSuchKey"
    found = [read(s3, bucket, "k", VersionId=version) for version in versions]
    assert found == contents
    wait_until_stored(cloud, before + sum(map(len, contents)))
    marker = s3.list_object_versions(Bucket=bucket)["DeleteMarkers"][0]["VersionId"]
    for version, left in ((marker, contents), (versions[2], contents[:2]), ("null", contents[1:2])):
        s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
        assert read(s3, bucket, "k") == left[-1]
        wait_until_stored(cloud, before + sum(map(len, left)))


def upload(s3: Any, bucket: str, parts: dict[int, bytes]) -> tuple[str, list[dict[str, Any]]]:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    where = {"Bucket": bucket, "Key": "k", "UploadId": upload_id}
    tags = [
        {"PartNumber": n, "ETag": s3.upload_part(**where, PartNumber=n, Body=part)["ETag"]}
        for n, part in parts.items()
    ]
    return upload_id, sorted(tags, key=lambda tag: int(tag["PartNumber"]))


def test_parts_are_joined_in_their_order_and_are_not_written_again(
    cloud: Cloud, s3: Any, bucket: str
) -> None:
    before = stored(cloud)
    parts = {5: LONG[:MIB], 2: LONG[MIB:], 9: b"short"}
    upload_id, tags = upload(s3, bucket, parts)
    s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": tags}
    )
    whole = parts[2] + parts[5] + parts[9]
    digests = b"".join(hashlib.md5(parts[n]).digest() for n in (2, 5, 9))
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == whole
    assert (got["ContentLength"], got["ETag"]) == (
        len(whole),
        f'"{hashlib.md5(digests).hexdigest()}-3"',
    )
    seam = len(parts[2])
    assert read(s3, bucket, "k", Range=f"bytes={seam - 3}-{seam + 3}") == whole[seam - 3 : seam + 4]
    assert read(s3, bucket, "k", PartNumber=5) == parts[5]
    wait_until_stored(cloud, before + len(parts[2]) + len(parts[5]))


def test_an_upload_that_cannot_be_completed_stays_open_until_it_is_aborted(
    cloud: Cloud, s3: Any, bucket: str
) -> None:
    before = stored(cloud)
    upload_id, tags = upload(s3, bucket, {1: LONG, 2: LONG[:MIB]})
    wrong = [tags[0], {**tags[1], "ETag": tags[0]["ETag"]}]
    where = {"Bucket": bucket, "Key": "k", "UploadId": upload_id}
    with pytest.raises(ClientError) as caught:
        s3.complete_multipart_upload(**where, MultipartUpload={"Parts": wrong})
    assert code_of(caught) == "InvalidPart"
    sizes = [part["Size"] for part in s3.list_parts(**where)["Parts"]]
    assert sizes == [len(LONG), MIB]
    wait_until_stored(cloud, before + len(LONG) + MIB)
    s3.abort_multipart_upload(**where)
    wait_until_stored(cloud, before)


def test_a_copy_shares_the_content_and_outlives_its_source(
    cloud: Cloud, s3: Any, bucket: str
) -> None:
    before = stored(cloud)
    source = {"Bucket": bucket, "Key": "source"}
    s3.put_object(**source, Body=LONG)
    s3.copy_object(Bucket=bucket, Key="whole", CopySource=source)
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    where = {"Bucket": bucket, "Key": "k", "UploadId": upload_id}
    copied = s3.upload_part_copy(
        **where, PartNumber=1, CopySource=source, CopySourceRange="bytes=1000-2000000"
    )
    tag = {"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": [tag]})
    s3.delete_object(**source)
    wait_until_stored(cloud, before + len(LONG))
    assert read(s3, bucket, "whole") == LONG
    assert read(s3, bucket, "k") == LONG[1000:2_000_001]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "whole"}, {"Key": "k"}]})
    wait_until_stored(cloud, before)


def test_a_content_with_another_checksum_is_refused_and_not_kept(
    cloud: Cloud, s3: Any, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=LONG[:5000])
    before = stored(cloud)
    other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=LONG, ChecksumSHA256=other)
    assert code_of(caught) == "BadDigest"
    assert read(s3, bucket, "k") == LONG[:5000]
    wait_until_stored(cloud, before)


def test_of_two_writers_of_a_new_key_one_wins(s3: Any, bucket: str) -> None:
    def write(content: bytes) -> bytes:
        try:
            s3.put_object(Bucket=bucket, Key="once", Body=content, IfNoneMatch="*")
        except ClientError as exc:
            return str(exc.response["Error"]["Code"]).encode()
        return content

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, [LONG[n:] for n in range(4)]))
    results.remove(read(s3, bucket, "once"))
    assert results == [b"PreconditionFailed"] * 3


def test_other_services_read_objects(cloud: Cloud, s3: Any, bucket: str) -> None:
    code = "def handler(event, context):\n    return 'from S3'\n"
    s3.put_object(Bucket=bucket, Key="code.zip", Body=packed(code, ballast=LONG))
    made = cloud.client("lambda").create_function(
        FunctionName=unique("function"),
        Runtime="python3.12",
        Handler="main.handler",
        Role=cloud.role(),
        Code={"S3Bucket": bucket, "S3Key": "code.zip"},
        Timeout=30,
    )
    got = cloud.client("lambda").invoke(FunctionName=made["FunctionArn"])
    assert got["Payload"].read() == b'"from S3"'


def test_objects_take_no_memory(cloud: Cloud, s3: Any, bucket: str) -> None:
    def resident() -> int:
        status = Path(f"/proc/{cloud.endpoint.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * KIB

    before = resident()
    size, count = 16 * MIB, 24
    for number in range(count):
        s3.put_object(Bucket=bucket, Key=str(number), Body=os.urandom(size))
    # A few contents may be on their way from the connection to the disk.
    eventually(lambda: resident() - before < count * size // 4)
    keys = [{"Key": str(number)} for number in range(count)]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})


def test_a_full_disk_fails_the_request_and_keeps_the_object_before_it(tmp_path: Path) -> None:
    endpoint = daemon.start(tmp_path / "cloud", die_with_parent=True)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        s3 = cloud.client("s3")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="k", Body=LONG[:5000])
        # From now on no file of the local cloud can grow beyond this.
        resource.prlimit(endpoint.pid, resource.RLIMIT_FSIZE, (2 * MIB, resource.RLIM_INFINITY))
        opened = s3.create_multipart_upload(Bucket="bucket", Key="k")["UploadId"]
        part = {"UploadId": opened, "PartNumber": 1}
        for put, fields in ((s3.put_object, {}), (s3.upload_part, part)):
            with pytest.raises(ClientError) as caught:
                put(Bucket="bucket", Key="k", Body=LONG, **fields)
            assert code_of(caught) == "InternalError"
            assert "disk of the local cloud" in str(caught.value)
        assert read(s3, "bucket", "k") == LONG[:5000]
        assert stored(cloud) == 5000
        resource.prlimit(endpoint.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        s3.put_object(Bucket="bucket", Key="k", Body=LONG)
        assert read(s3, "bucket", "k") == LONG
    finally:
        daemon.stop(endpoint.home)


def test_a_restart_begins_without_objects_even_after_a_crash(tmp_path: Path) -> None:
    home = tmp_path / "cloud"
    try:
        endpoint = daemon.start(home, die_with_parent=True)
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        cloud.client("s3").create_bucket(Bucket="bucket")
        cloud.client("s3").put_object(Bucket="bucket", Key="k", Body=LONG)
        os.kill(endpoint.pid, signal.SIGKILL)
        os.waitpid(endpoint.pid, 0)
        assert stored(cloud) == len(LONG)
        endpoint = daemon.start(home, die_with_parent=True)
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        assert stored(cloud) == 0
        assert cloud.client("s3").list_buckets()["Buckets"] == []
    finally:
        daemon.stop(home)
    assert not (home / "s3").exists()
