"""A trainer's session: the request to STS, and the meaning of its responses."""

import json
from datetime import datetime, timezone

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws.trainer_access import TrainerAccess, session_policy
from runctl.model.errors import RefusedError, TransientError

ROLE = "arn:aws:iam::123456789012:role/runctl-trainer"
UNTIL = datetime(2030, 1, 31, 18, tzinfo=timezone.utc)


@pytest.fixture
def sts():
    client = boto3.client(
        "sts", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    with Stubber(client) as stubber:
        yield client, stubber
        stubber.assert_no_pending_responses()


def access(client, *, run_id: str = "lm") -> TrainerAccess:
    return TrainerAccess(client, role_arn=ROLE, bucket="bucket", run_id=run_id, attempt=3)


def test_a_session_is_for_one_run_and_one_hour_and_its_name_says_which_run(sts):
    client, stubber = sts
    run_id = "r" * 64
    stubber.add_response(
        "assume_role",
        {
            "Credentials": {
                "AccessKeyId": "ASIAABCDEFGHIJKLMNOP",
                "SecretAccessKey": "secret",
                "SessionToken": "token",
                "Expiration": UNTIL,
            }
        },
        {
            "RoleArn": ROLE,
            "RoleSessionName": f"0003-{run_id}"[:64],
            "Policy": session_policy(ROLE, bucket="bucket", run_id=run_id),
            "DurationSeconds": 3600,
        },
    )
    held = access(client, run_id=run_id).fetch()
    assert held.as_document() == {
        "AccessKeyId": "ASIAABCDEFGHIJKLMNOP",
        "SecretAccessKey": "secret",
        "Token": "token",
        "Expiration": "2030-01-31T18:00:00Z",
    }
    assert "secret" not in repr(held)
    assert "token='" not in repr(held)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("AccessDenied", RefusedError),
        ("ExpiredToken", RefusedError),
        ("Throttling", TransientError),
    ],
)
def test_a_refusal_is_distinguished_from_a_transient_error(sts, code, error):
    client, stubber = sts
    stubber.add_client_error("assume_role", service_error_code=code)
    with pytest.raises(error):
        access(client).fetch()


def test_the_policy_of_the_longest_names_is_short_enough_and_names_the_run_only():
    policy = session_policy(
        ROLE.replace("arn:aws:", "arn:aws-us-gov:"), bucket="b" * 63, run_id="r" * 64
    )
    assert len(policy) <= 2048
    read, write, listed, elsewhere = json.loads(policy)["Statement"]
    ours = "arn:aws-us-gov:s3:::" + "b" * 63
    assert read["Resource"] == f"{ours}/runs/{'r' * 64}/*"
    assert write["Resource"] == f"{ours}/runs/{'r' * 64}/outputs/*"
    assert listed["Condition"] == {"StringLike": {"s3:prefix": f"runs/{'r' * 64}/*"}}
    assert elsewhere["NotResource"] == [ours, f"{ours}/*"]
