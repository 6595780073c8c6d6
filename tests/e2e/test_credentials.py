"""A trainer that asked for credentials reaches its own run's data, and nothing of another run."""

import json
import sys

import pytest

from tests.e2e.testbed import Testbed

pytestmark = pytest.mark.e2e

# What it tries; each result is "ok" or the code of the refusal.
PROBER = """
import boto3, json, os
from botocore.exceptions import ClientError

s3, sts, table = (boto3.client(name) for name in ("s3", "sts", "dynamodb"))
bucket, own = os.environ["BUCKET"], f"runs/{os.environ['RUNCTL_RUN_ID']}/"
other = os.environ["OTHER"]
read = lambda key: s3.get_object(Bucket=bucket, Key=key)
write = lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x")
tries = {
    "write own output": lambda: write(own + "outputs/a/b.txt"),
    "read own output": lambda: read(own + "outputs/a/b.txt"),
    "list own run": lambda: s3.list_objects_v2(Bucket=bucket, Prefix=own),
    "write own checkpoint": lambda: write(own + "checkpoints/parts/x"),
    "delete own output": lambda: s3.delete_object(Bucket=bucket, Key=own + "outputs/a/b.txt"),
    "read another run": lambda: read(other + "outputs/secret.txt"),
    "write another run": lambda: write(other + "outputs/secret.txt"),
    "list another run": lambda: s3.list_objects_v2(Bucket=bucket, Prefix=other),
    "list everything": lambda: s3.list_objects_v2(Bucket=bucket),
    "read the ledger": lambda: table.get_item(
        TableName=os.environ["TABLE"],
        Key={"pk": {"S": "RUN#" + os.environ["RUNCTL_RUN_ID"]}, "sk": {"S": "RUN"}},
    ),
}
found = {"me": sts.get_caller_identity()["Arn"]}
for name, attempt in tries.items():
    try:
        attempt()
        found[name] = "ok"
    except ClientError as exc:
        found[name] = exc.response["Error"]["Code"]
print(json.dumps(found), flush=True)
"""


def test_a_trainer_reaches_its_own_run_and_nothing_of_another(testbed: Testbed, new_name):
    run_id, other = new_name(), f"runs/{new_name()}/"
    bucket, table = testbed.deployment.bucket, testbed.deployment.table
    secret = {"Bucket": bucket, "Key": f"{other}outputs/secret.txt"}
    testbed.clients.get("s3").put_object(**secret, Body=b"not yours")
    testbed.start(
        {
            "code": testbed.upload_project({"probe.py": PROBER}),
            # The instance runs on this machine, whose Python has the SDK.
            "command": [sys.executable, "probe.py"],
            "env": {"BUCKET": bucket, "TABLE": table, "OTHER": other},
            "credentials": "run",
        },
        name=run_id,
    )
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    (line,) = [line for line in testbed.log(run_id, 1) if line.startswith("{")]
    found = json.loads(line)
    role, _, session = found.pop("me").rpartition("/")
    assert "TrainerRole" in role
    assert session == f"0001-{run_id}"
    allowed = {"write own output", "read own output", "list own run"}
    assert {name for name, answer in found.items() if answer == "ok"} == allowed, found
    refusals = {answer for answer in found.values() if answer != "ok"}
    assert refusals <= {"AccessDenied", "AccessDeniedException"}
    content = testbed.clients.get("s3").get_object(**secret)["Body"].read()
    assert content == b"not yours"
