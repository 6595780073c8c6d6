"""The refusals of S3 for inputs, each with its remedy; other errors are waited out."""

import boto3
import pytest
from botocore.stub import ANY, Stubber

from runctl.aws.inputs import InputStore
from runctl.model.errors import ForbiddenDataError, RequestError, TransientError
from runctl.model.input_sources import StoredObject, parse_input

PREFIX = parse_input("s3://theirs/data/")
FOUND = StoredObject("data/a", 3, '"e"')


def listed(**item):
    return {"Contents": [{"Key": "data/a", "Size": 3, "ETag": '"e"', **item}]}


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("AccessDenied", 403, r"s3://theirs/data/ may not be read .*readable_buckets"),
        ("NoSuchBucket", 404, "there is no bucket theirs; check the name"),
        ("PermanentRedirect", 301, "is in another region than this deployment"),
    ],
)
def test_a_prefix_that_cannot_be_listed_is_refused_with_the_remedy(code, status, message):
    client = boto3.client("s3")
    with Stubber(client) as stub:
        stub.add_client_error("list_objects_v2", code, http_status_code=status)
        with pytest.raises(RequestError, match=message) as caught:
            list(InputStore(client).list_objects(PREFIX))
    assert isinstance(caught.value, ForbiddenDataError) == (code == "AccessDenied")


def test_a_throttled_listing_is_not_a_problem_of_the_request():
    client = boto3.client("s3")
    with Stubber(client) as stub:
        stub.add_client_error("list_objects_v2", "SlowDown", http_status_code=503)
        with pytest.raises(TransientError):
            list(InputStore(client).list_objects(PREFIX))


@pytest.mark.parametrize("restore", ["", 'ongoing-request="true"'])
def test_an_archived_object_is_refused_unless_it_is_restored(restore):
    client = boto3.client("s3")
    with Stubber(client) as stub:
        stub.add_response("list_objects_v2", listed(StorageClass="DEEP_ARCHIVE"))
        stub.add_response("head_object", {"Restore": restore} if restore else {})
        with pytest.raises(RequestError, match="is archived; restore it"):
            list(InputStore(client).list_objects(PREFIX))


def test_an_archived_object_that_is_restored_is_an_input():
    client = boto3.client("s3")
    with Stubber(client) as stub:
        stub.add_response("list_objects_v2", listed(StorageClass="GLACIER"))
        stub.add_response("head_object", {"Restore": 'ongoing-request="false", expiry-date="…"'})
        assert list(InputStore(client).list_objects(PREFIX)) == [FOUND]


def test_a_key_that_may_not_decrypt_is_named_with_the_object():
    client = boto3.client("s3")
    with Stubber(client) as stub:
        stub.add_client_error("head_object", "403", http_status_code=403)
        with pytest.raises(RequestError, match=r"s3://theirs/data/a may not be read .*KMS key"):
            InputStore(client).find_checksum(PREFIX, FOUND)


@pytest.mark.parametrize(
    ("answer", "algorithm"),
    [
        ({}, "MD5"),
        ({"ServerSideEncryption": "AES256"}, "MD5"),
        ({"ServerSideEncryption": "aws:kms"}, ""),
        ({"ServerSideEncryption": "aws:kms:dsse", "ChecksumCRC32": "AAAA"}, "CRC32"),
        ({"SSECustomerAlgorithm": "AES256"}, ""),
        ({"ChecksumCRC64NVME": "AAAA"}, "MD5"),
        ({"ChecksumSHA256": "AAAA"}, "SHA256"),
    ],
)
def test_the_etag_is_a_checksum_only_where_it_is_the_md5(answer, algorithm):
    client = boto3.client("s3")
    with Stubber(client) as stub:
        stub.add_response(
            "head_object",
            answer,
            {"Bucket": "theirs", "Key": "data/a", "IfMatch": '"e"', "ChecksumMode": ANY},
        )
        assert InputStore(client).find_checksum(PREFIX, FOUND).algorithm == algorithm


def test_the_checksum_of_parts_needs_the_size_of_the_first():
    client = boto3.client("s3")
    found = StoredObject("data/a", 20, '"ab-3"')
    with Stubber(client) as stub:
        stub.add_response("head_object", {"ServerSideEncryption": "AES256"})
        stub.add_response(
            "head_object",
            {"ContentLength": 8},
            {"Bucket": "theirs", "Key": "data/a", "PartNumber": 1},
        )
        checksum = InputStore(client).find_checksum(PREFIX, found)
    assert (checksum.algorithm, checksum.part_bytes) == ("MD5", 8)
