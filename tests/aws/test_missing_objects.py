"""A session that may list only some prefixes still learns that an object is missing."""

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from runctl.aws.missing_objects import distinguish_missing

BUCKET, KEY = "ours", "runs/a/x"


@pytest.fixture
def stubbed():
    client = boto3.client("s3")
    distinguish_missing(client)
    with Stubber(client) as stubber:
        yield client, stubber
        stubber.assert_no_pending_responses()


def code_of_get(client) -> str:
    with pytest.raises(ClientError) as refused:
        client.get_object(Bucket=BUCKET, Key=KEY)
    return refused.value.response["Error"]["Code"]


def forbid(stubber: Stubber, *listed: str) -> None:
    stubber.add_client_error("get_object", "AccessDenied", http_status_code=403)
    stubber.add_response(
        "list_objects_v2",
        {"Contents": [{"Key": key} for key in listed]} if listed else {},
        {"Bucket": BUCKET, "Prefix": KEY, "MaxKeys": 1},
    )


@pytest.mark.parametrize("listed", [[], [f"{KEY}.old"]])
def test_a_refused_object_that_is_not_listed_is_missing(stubbed, listed):
    client, stubber = stubbed
    forbid(stubber, *listed)
    assert code_of_get(client) == "NoSuchKey"


def test_a_refused_object_that_is_there_stays_refused(stubbed):
    client, stubber = stubbed
    forbid(stubber, KEY)
    assert code_of_get(client) == "AccessDenied"


@pytest.mark.parametrize("code", ["AccessDenied", "SlowDown"])
def test_a_refused_listing_shows_nothing(stubbed, code):
    client, stubber = stubbed
    stubber.add_client_error("get_object", "AccessDenied", http_status_code=403)
    stubber.add_client_error("list_objects_v2", code, http_status_code=403)
    assert code_of_get(client) == "AccessDenied"


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchBucket", "SlowDown"])
def test_other_answers_cost_no_listing(stubbed, code):
    client, stubber = stubbed
    stubber.add_client_error("get_object", code, http_status_code=404)
    assert code_of_get(client) == code
