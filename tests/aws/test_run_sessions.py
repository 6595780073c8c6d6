"""Sessions of runs: roles, tags, policies, and what STS may answer."""

from datetime import datetime, timezone
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from runctl.aws.instance_roles import InstanceRoles
from runctl.aws.run_sessions import RunSessions
from runctl.model.errors import TransientError, UnexpectedAwsError
from runctl.model.node import NodeId
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.policy.run_access import Grant, Reach
from runctl.policy.session_policy import SHORT, Place, trainer_policy, warm_policy

PLACE = Place(bucket="ours", region="us-east-1", account="123456789012")
ROLES = {
    "run_role": "arn:aws:iam::123456789012:role/Run",
    "trainer_role": "arn:aws:iam::123456789012:role/Trainer",
}
NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
ANSWER = {
    "Credentials": {
        "AccessKeyId": "ASIAXXXXXXXXXXXXXXXX", "SecretAccessKey": "secret", "SessionToken": "t",
        "Expiration": NOW,
    }
}  # fmt: skip


def grant(reach: Reach = Reach.RUN, run_id: str = "a-run", **request: Any) -> Grant:
    run = Run(
        run_id=run_id,
        request=RunRequest.from_stored({"command": ["train"], **request}),
        started_at=NOW,
        execution=run_id,
        execution_arn="arn",
    )
    return Grant(node=NodeId(run_id, 7, 0), run=run, reach=reach, instance_id="i-1")


@pytest.fixture
def stubbed():
    client = boto3.client("sts")
    with Stubber(client) as stubber:
        yield RunSessions(client, **ROLES, place=PLACE, table="ledger"), stubber
        stubber.assert_no_pending_responses()


def expected(role: str = "run_role", **changes: Any) -> dict[str, Any]:
    return {
        "RoleArn": ROLES[role], "RoleSessionName": "0007-a-run", "Policy": ANY,
        "DurationSeconds": 3600, **changes,
    }  # fmt: skip


def tags(**named: str) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in named.items()]


def test_a_run_gets_a_session_with_its_tags(stubbed):
    sessions, stubber = stubbed
    named = tags(Group="g", Instance="i-1", RunId="a-run", Attempt="0007", Environments="shared")
    stubber.add_response("assume_role", ANSWER, expected(Tags=named))
    session = sessions.open(grant(group="g"))
    assert (session.access_key, session.expires_at) == ("ASIAXXXXXXXXXXXXXXXX", NOW)
    assert "secret" not in repr(session)


def test_a_run_with_root_has_no_tag_that_lets_it_store_environments_for_others(stubbed):
    sessions, stubber = stubbed
    named = tags(RunId="a-run", Attempt="0007")
    stubber.add_response("assume_role", ANSWER, expected(Tags=named))
    sessions.open(grant(root=True))


def test_an_instance_that_waits_has_no_tag_of_a_run(stubbed):
    sessions, stubber = stubbed
    policy = warm_policy(PLACE, table="ledger")
    named = tags(Group="g", Instance="i-1")
    stubber.add_response("assume_role", ANSWER, expected(Policy=policy, Tags=named))
    sessions.open(grant(Reach.WARM, group="g"))


def test_a_trainer_gets_a_session_of_another_role_without_tags(stubbed):
    sessions, stubber = stubbed
    policy = trainer_policy("a-run", PLACE)
    stubber.add_response("assume_role", ANSWER, expected("trainer_role", Policy=policy))
    sessions.open(grant(Reach.TRAINER))


def test_long_names_are_cut_for_the_session_only(stubbed):
    sessions, stubber = stubbed
    name = "r" * 64
    named = tags(RunId=name, Attempt="0007", Environments="shared")
    asked = expected(RoleSessionName=f"0007-{name}"[:64], Tags=named)
    stubber.add_response("assume_role", ANSWER, asked)
    sessions.open(grant(run_id=name))


def test_a_policy_that_cannot_be_packed_is_replaced_by_a_shorter_one():
    client, policies = boto3.client("sts"), []

    def answer(params: dict[str, Any], **_: Any) -> None:
        policies.append(params["Policy"])

    client.meta.events.register("provide-client-params.sts.AssumeRole", answer)
    inputs = {f"i{n}": f"s3://ours/inputs/{'k' * 40}{n}/" for n in range(12)}
    with Stubber(client) as stubber:
        stubber.add_client_error("assume_role", "PackedPolicyTooLarge", http_status_code=400)
        stubber.add_response("assume_role", ANSWER)
        RunSessions(client, **ROLES, place=PLACE, table="ledger").open(grant(inputs=inputs))
    long, short = policies
    assert len(short) <= SHORT < len(long)


@pytest.mark.parametrize(
    ("code", "error"),
    [("PackedPolicyTooLarge", UnexpectedAwsError), ("Throttling", TransientError)],
)
def test_what_sts_refuses_is_an_error(stubbed, code, error):
    sessions, stubber = stubbed
    for _ in range(2 if code == "PackedPolicyTooLarge" else 1):
        stubber.add_client_error("assume_role", code, http_status_code=400)
    with pytest.raises(error):
        sessions.open(grant())


def a_machine(*, role: bool = True, profile: bool = True) -> str:
    iam, ec2 = boto3.client("iam"), boto3.client("ec2")
    iam.create_instance_profile(InstanceProfileName="p", Path="/team/")
    if role:
        iam.create_role(RoleName="theirs", Path="/team/", AssumeRolePolicyDocument="{}")
        iam.add_role_to_instance_profile(InstanceProfileName="p", RoleName="theirs")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    given = {"IamInstanceProfile": {"Name": "p"}} if profile else {}
    answer = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, **given)
    return answer["Instances"][0]["InstanceId"]


def roles() -> InstanceRoles:
    return InstanceRoles(boto3.client, role_arn="arn:aws:iam::123456789012:role/path/Ours")


def test_the_role_of_an_instance_is_that_of_its_profile():
    assert roles().role_of(a_machine()) == "theirs"
    assert (roles().own, roles().account) == ("Ours", "123456789012")


@pytest.mark.parametrize("without", ["role", "profile"])
def test_an_instance_without_a_role_has_none(without):
    assert roles().role_of(a_machine(**{without: False})) is None


def test_an_instance_that_is_gone_has_no_role():
    assert roles().role_of("i-0123456789abcdef0") is None
