"""Policies of the local cloud have variables, and DynamoDB's keys as conditions, as AWS's do."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud, unique

pytestmark = pytest.mark.slow

RUN = "${aws:PrincipalTag/RunId}"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
            "Action": ["sts:AssumeRole", "sts:TagSession"],
        }
    ],
}


def session(
    cloud: Cloud,
    *statements: dict[str, Any],
    version: str | None = "2012-10-17",
    role_tags: dict[str, str] | None = None,
    **tags: str,
) -> dict[str, str]:
    """Return credentials of a role with these statements, in a session with these tags."""
    iam, name = cloud.client("iam"), unique("tagged")

    def listed(given: dict[str, str]) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in given.items()]

    role = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST), Tags=listed(role_tags or {})
    )["Role"]["Arn"]
    document: dict[str, Any] = {"Statement": list(statements)}
    if version:
        document["Version"] = version
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(document))
    answer = cloud.client("sts").assume_role(
        RoleArn=role, RoleSessionName="tester", Tags=listed(tags)
    )["Credentials"]
    return {
        "aws_access_key_id": answer["AccessKeyId"],
        "aws_secret_access_key": answer["SecretAccessKey"],
        "aws_session_token": answer["SessionToken"],
    }


@pytest.fixture
def bucket(strict_cloud: Cloud) -> str:
    name = unique("tagged")
    admin = strict_cloud.client("s3")
    admin.create_bucket(Bucket=name)
    for key in ("runs/a/x", "runs/b/x", "runs/*/x", f"runs/{RUN}/x", "runs//x"):
        admin.put_object(Bucket=name, Key=key, Body=b"secret")
    return name


def reads(bucket: str, pattern: str, **condition: Any) -> dict[str, Any]:
    statement = {
        "Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/{pattern}"
    }  # fmt: skip
    return statement | ({"Condition": condition} if condition else {})


def readable(cloud: Cloud, bucket: str, keys: dict[str, str]) -> set[str]:
    client = cloud.client("s3", **keys)
    found = set()
    for key in ("runs/a/x", "runs/b/x", "runs/*/x", f"runs/{RUN}/x", "runs//x"):
        with contextlib.suppress(client.exceptions.ClientError):
            client.get_object(Bucket=bucket, Key=key)
            found.add(key)
    return found


def test_a_variable_stands_for_the_tag_of_the_session(strict_cloud: Cloud, bucket: str) -> None:
    statement = reads(bucket, f"runs/{RUN}/*")
    keys = session(strict_cloud, statement, RunId="a")
    assert readable(strict_cloud, bucket, keys) == {"runs/a/x"}


def test_a_tag_of_the_session_replaces_that_of_the_role(strict_cloud: Cloud, bucket: str) -> None:
    statement, of_role = reads(bucket, f"runs/{RUN}/*"), {"RunId": "b"}
    assert readable(
        strict_cloud, bucket, session(strict_cloud, statement, role_tags=of_role, RunId="a")
    ) == {"runs/a/x"}
    assert readable(
        strict_cloud, bucket, session(strict_cloud, statement, role_tags=of_role)
    ) == {"runs/b/x"}  # fmt: skip


def test_a_statement_about_an_absent_tag_does_not_match(strict_cloud: Cloud, bucket: str) -> None:
    for statement in (
        reads(bucket, f"runs/{RUN}/*"),
        reads(bucket, "runs/*", StringNotEquals={"aws:PrincipalAccount": RUN}),
    ):
        keys = session(strict_cloud, statement, Other="a")
        assert readable(strict_cloud, bucket, keys) == set()


def test_a_variable_may_have_a_default(strict_cloud: Cloud, bucket: str) -> None:
    statement = reads(bucket, "runs/${aws:PrincipalTag/RunId, 'b'}/*")
    assert readable(strict_cloud, bucket, session(strict_cloud, statement)) == {"runs/b/x"}
    keys = session(strict_cloud, statement, RunId="a")
    assert readable(strict_cloud, bucket, keys) == {"runs/a/x"}


def test_special_characters_stand_for_themselves(strict_cloud: Cloud, bucket: str) -> None:
    keys = session(strict_cloud, reads(bucket, "runs/${*}/*"), RunId="a")
    assert readable(strict_cloud, bucket, keys) == {"runs/*/x"}


@pytest.mark.parametrize("version", [None, "2008-10-17"])
def test_older_policies_have_no_variables(
    strict_cloud: Cloud, bucket: str, version: str | None
) -> None:
    statement = reads(bucket, f"runs/{RUN}/*")
    keys = session(strict_cloud, statement, version=version, RunId="a")
    assert readable(strict_cloud, bucket, keys) == {f"runs/{RUN}/x"}


def test_a_variable_in_a_condition_is_compared_as_text(strict_cloud: Cloud, bucket: str) -> None:
    statement = reads(bucket, "runs/*", StringEquals={"aws:PrincipalTag/Team": RUN})
    keys = session(strict_cloud, statement, RunId="a", Team="a")
    assert len(readable(strict_cloud, bucket, keys)) > 1
    keys = session(strict_cloud, statement, RunId="a", Team="b")
    assert readable(strict_cloud, bucket, keys) == set()


# DynamoDB.


@pytest.fixture
def table(strict_cloud: Cloud) -> str:
    name = unique("items")
    client = strict_cloud.client("dynamodb")
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[
            {"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}
        ],
        AttributeDefinitions=[
            {"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk", "listed")
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "listed",
                "KeySchema": [{"AttributeName": "listed", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )  # fmt: skip
    for run in "ab":
        item = {"pk": {"S": f"RUN#{run}"}, "sk": {"S": "RUN"}, "listed": {"S": "run"}}
        client.put_item(TableName=name, Item=item)
    return name


def limited(cloud: Cloud, *attributes: str) -> Any:
    """Return a client that may use the items of run a, and these attributes of them."""
    keys: dict[str, Any] = {"dynamodb:LeadingKeys": [f"RUN#{RUN}"]}
    if attributes:
        keys["dynamodb:Attributes"] = ["pk", "sk", *attributes]
    statement = {
        "Effect": "Allow", "Action": "dynamodb:*", "Resource": "*",
        "Condition": {
            "ForAllValues:StringEquals": keys, "Null": {"dynamodb:LeadingKeys": "false"}
        },
    }  # fmt: skip
    return cloud.client("dynamodb", **session(cloud, statement, RunId="a"))


def key(run: str) -> dict[str, Any]:
    return {"pk": {"S": f"RUN#{run}"}, "sk": {"S": "RUN"}}


def calls(client: Any, table: str, run: str) -> dict[str, Any]:
    put = {"TableName": table, "Item": key(run)}
    value = {":pk": {"S": f"RUN#{run}"}}
    return {
        "get": lambda: client.get_item(TableName=table, Key=key(run)),
        "put": lambda: client.put_item(**put),
        "update": lambda: client.update_item(
            TableName=table, Key=key(run), UpdateExpression="SET #x = :pk",
            ExpressionAttributeNames={"#x": "x"}, ExpressionAttributeValues=value,
        ),
        "query": lambda: client.query(
            TableName=table, KeyConditionExpression="#pk = :pk AND begins_with(sk, :pk)",
            ExpressionAttributeNames={"#pk": "pk"}, ExpressionAttributeValues=value,
        ),
        "transaction": lambda: client.transact_write_items(TransactItems=[{"Put": put}]),
        "batch": lambda: client.batch_get_item(RequestItems={table: {"Keys": [key(run)]}}),
        "delete": lambda: client.delete_item(TableName=table, Key=key(run)),
    }  # fmt: skip


@pytest.mark.parametrize(
    "call", ["get", "put", "update", "query", "transaction", "batch", "delete"]
)
def test_only_the_items_of_the_leading_key_are_reached(
    strict_cloud: Cloud, table: str, call: str
) -> None:
    client = limited(strict_cloud)
    with pytest.raises(ClientError, match="AccessDenied"):
        calls(client, table, "b")[call]()
    calls(client, table, "a")[call]()


def test_a_request_for_several_keys_needs_all_of_them(strict_cloud: Cloud, table: str) -> None:
    client = limited(strict_cloud)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.batch_get_item(RequestItems={table: {"Keys": [key("a"), key("b")]}})
    puts = [{"Put": {"TableName": table, "Item": key(run)}} for run in "ab"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.transact_write_items(TransactItems=puts)


def test_a_request_without_a_leading_key_is_refused(strict_cloud: Cloud, table: str) -> None:
    client = limited(strict_cloud)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.scan(TableName=table)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.query(
            TableName=table, IndexName="listed", KeyConditionExpression="listed = :run",
            ExpressionAttributeValues={":run": {"S": "run"}},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("update", "condition", "is_allowed"),
    [
        ("SET #save = :v", None, True),
        ("SET #save = :v, #tree.#leaf = :v", None, True),
        ("SET #save = :v", "attribute_exists(#pk) AND #save <> :v", True),
        ("SET #save = :v, #request = :v", None, False),
        ("SET #save = :v REMOVE #request", None, False),
        ("SET #save = if_not_exists(#request, :v)", None, False),
        ("SET request = :v", None, False),
        ("SET #save = :v", "#request = :v", False),
    ],
)
def test_an_update_may_name_only_the_attributes_of_the_condition(
    strict_cloud: Cloud, table: str, update: str, condition: str | None, *, is_allowed: bool
) -> None:
    admin, client = strict_cloud.client("dynamodb"), limited(strict_cloud, "save", "tree")
    admin.put_item(TableName=table, Item={**key("a"), "tree": {"M": {}}})
    names = {
        f"#{name}": name
        for name in ("save", "tree", "leaf", "request", "pk")
        if f"#{name}" in f"{update} {condition}"
    }
    more = {"ConditionExpression": condition} if condition else {}
    more |= {"ExpressionAttributeNames": names} if names else {}

    def write() -> None:
        client.update_item(
            TableName=table, Key=key("a"), UpdateExpression=update,
            ExpressionAttributeValues={":v": {"S": "1"}}, **more,
        )  # fmt: skip

    if is_allowed:
        write()
        return
    with pytest.raises(ClientError, match="AccessDenied"):
        write()


def test_an_instance_profile_is_what_a_look_at_it_is_checked_on(strict_cloud: Cloud) -> None:
    name, other = unique("profile"), unique("profile")
    for each in (name, other):
        strict_cloud.client("iam").create_instance_profile(InstanceProfileName=each)
    statement = {
        "Effect": "Allow",
        "Action": "iam:GetInstanceProfile",
        "Resource": f"arn:aws:iam::*:instance-profile/{name}",
    }
    client = strict_cloud.client("iam", **session(strict_cloud, statement))
    found = client.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    assert found["InstanceProfileName"] == name
    with pytest.raises(ClientError, match="AccessDenied"):
        client.get_instance_profile(InstanceProfileName=other)
