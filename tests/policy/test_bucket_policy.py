"""What a bucket's policy certainly denies to a role."""

from typing import Any

import pytest

from runctl.policy.bucket_policy import denied_by

ROLE = "arn:aws:iam::123456789012:role/runctl-RunRole"
READ = ("s3:GetObject", "arn:aws:s3:::data/x")
LIST = ("s3:ListBucket", "arn:aws:s3:::data")
DENY: dict[str, Any] = {
    "Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::data/*",
}  # fmt: skip


def denied(**changes: Any) -> list[tuple[str, str]]:
    statement = {**DENY, **changes}
    given = {name: value for name, value in statement.items() if value is not None}
    return denied_by({"Statement": given}, role=ROLE, calls=[READ, LIST])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"Principal": {"AWS": ROLE}},
        {"Principal": {"AWS": ["arn:aws:iam::123456789012:root"]}},
        {"Principal": {"AWS": "123456789012"}},
        {"Principal": None, "NotPrincipal": {"AWS": "arn:aws:iam::123456789012:role/admin"}},
        {"Action": ["S3:get*"]},
        {"Action": None, "NotAction": "s3:List*"},
        {"Resource": None, "NotResource": "arn:aws:s3:::data"},
        {"Condition": {"StringNotEquals": {"aws:PrincipalArn": "arn:aws:iam::1:role/a"}}},
        {"Condition": {"ArnNotLike": {"AWS:principalarn": ["arn:aws:iam::*:role/admin-*"]}}},
        {"Condition": {"StringEquals": {"aws:PrincipalAccount": ["1", "123456789012"]}}},
        {"Condition": {"BoolIfExists": {"aws:SecureTransport": True}}},
    ],
)
def test_a_statement_that_applies_to_every_request_of_the_role_denies(changes):
    assert denied(**changes) == [READ]


@pytest.mark.parametrize(
    "changes",
    [
        {"Effect": "Allow"},
        {"Principal": {"AWS": "arn:aws:iam::123456789012:role/other"}},
        {"Principal": {"Service": "cloudtrail.amazonaws.com"}},
        {"Principal": None, "NotPrincipal": {"AWS": [ROLE]}},
        {"Action": "s3:PutObject"},
        {"Action": None, "NotAction": ["s3:Get*", "s3:List*"]},
        {"Resource": "arn:aws:s3:::data/y"},
        {"Resource": None, "NotResource": ["arn:aws:s3:::data/*", "arn:aws:s3:::data"]},
        # Everybody forbids plain HTTP.
        {"Condition": {"Bool": {"aws:SecureTransport": "false"}}},
        {"Condition": {"StringNotEquals": {"aws:PrincipalArn": [ROLE]}}},
        # These depend on the request.
        {"Condition": {"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}},
        {"Condition": {"NumericLessThan": {"s3:TlsVersion": 1.2}}},
        {"Condition": {"Null": {"aws:PrincipalArn": "true"}}},
        {
            "Condition": {
                "StringEquals": {"aws:PrincipalArn": ROLE},
                "IpAddress": {"aws:SourceIp": "10.0.0.0/8"},
            }
        },
    ],
)
def test_any_other_statement_denies_nothing_for_sure(changes):
    assert denied(**changes) == []


def test_a_policy_without_statements_denies_nothing():
    assert denied_by({}, role=ROLE, calls=[READ]) == []
