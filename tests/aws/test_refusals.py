"""A refusal becomes a plain sentence: permission or setting, role, and remedy."""

from __future__ import annotations

import pytest

from runctl.aws.refusals import explain_refusal

DENIED = (
    "You are not authorized to perform this operation. User: arn:aws:sts::123456789012:"
    "assumed-role/runctl-launch/fn is not authorized to perform: ec2:CreateFleet on resource: "
    "arn:aws:ec2:us-east-1:123456789012:fleet/* because no identity-based policy allows the "
    "ec2:CreateFleet action. Encoded authorization failure message: " + "Zx9_" * 200
)


def test_missing_permission_is_named_with_its_role_and_without_the_encoded_message() -> None:
    assert explain_refusal("UnauthorizedOperation", DENIED) == (
        "the permission ec2:CreateFleet on arn:aws:ec2:us-east-1:123456789012:fleet/* was refused "
        "for arn:aws:sts::123456789012:assumed-role/runctl-launch/fn, since it is missing; change "
        "the policies of that role (UnauthorizedOperation)"
    )


DENIED_BY_POLICY = (
    "User: arn:aws:iam::1:user/me is not authorized to perform: sts:AssumeRole on resource: "
    "arn:aws:iam::1:role/x with an explicit deny in a service control policy"
)
UNNAMED = "You are not authorized. Encoded authorization failure message: abc"


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("AccessDenied", DENIED_BY_POLICY, "user/me, since an explicit deny forbids it"),
        (
            "AccessDenied",
            DENIED_BY_POLICY,
            "the permission sts:AssumeRole on arn:aws:iam::1:role/x",
        ),
        ("AccessDenied", "Access Denied", "AWS refused the call: Access Denied (AccessDenied)"),
        ("UnauthorizedOperation", UNNAMED, "call: You are not authorized (UnauthorizedOperation)"),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", "no", "create-service-linked-role"),
        ("PendingVerification", "Your request for accessing resources", "try again then"),
        ("SsmAccessDenied", "Access denied to SSM", "ssm:GetParameters"),
        ("OptInRequired", "You are not subscribed", "enable it in the account"),
        ("Blocked", "blocked", "AWS Support"),
    ],
)
def test_refusal_is_a_sentence_with_its_remedy(code: str, message: str, expected: str) -> None:
    assert expected in explain_refusal(code, message)
