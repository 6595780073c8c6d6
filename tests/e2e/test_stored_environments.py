"""Environments in the bucket: nobody replaces what another run will execute."""

import json

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.e2e.testbed import Testbed
from tests.local.clouds import Cloud, eventually

pytestmark = pytest.mark.e2e

READ_CREDENTIALS = """#!/bin/bash
base=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/api/token)
path=$base/meta-data/iam/security-credentials/
name=$(curl -s -H "X-aws-ec2-metadata-token: $token" $path)
curl -s -H "X-aws-ec2-metadata-token: $token" $path$name > $RUNCTL_ROOT/new
mv $RUNCTL_ROOT/new $RUNCTL_ROOT/credentials
"""


@pytest.fixture
def instance(testbed: Testbed):
    """S3 with the credentials that any instance of the deployment has."""
    ec2 = testbed.clients.get("ec2")
    template = testbed.deployment.launch_templates["x86_cpu"]
    (version,) = ec2.describe_launch_template_versions(
        LaunchTemplateId=template, Versions=["$Latest"]
    )["LaunchTemplateVersions"]
    profile = version["LaunchTemplateData"]["IamInstanceProfile"]
    cloud = Cloud(endpoint=testbed.endpoint, admin=testbed.cloud)
    instance_id = cloud.launch(READ_CREDENTIALS, data={"IamInstanceProfile": profile})
    found = cloud.root(instance_id) / "credentials"
    eventually(found.exists)
    keys = json.loads(found.read_text())
    yield boto3.client(
        "s3",
        endpoint_url=testbed.endpoint.url,
        region_name=testbed.endpoint.region,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["Token"],
    )
    ec2.terminate_instances(InstanceIds=[instance_id])


def test_an_instance_stores_environments_but_cannot_replace_or_remove_those_of_others(
    testbed: Testbed, instance
):
    where = {"Bucket": testbed.deployment.bucket, "Key": "environments/current/f00d"}
    instance.put_object(**where, Body=b"good", IfNoneMatch="*")
    attacks = {
        "overwrite": lambda: instance.put_object(**where, Body=b"evil"),
        "overwrite if it matches": lambda: instance.put_object(
            **where, Body=b"evil", IfMatch=instance.head_object(**where)["ETag"]
        ),
        "upload in parts": lambda: instance.create_multipart_upload(**where),
        "delete": lambda: instance.delete_object(**where),
        "delete many": lambda: instance.delete_objects(
            Bucket=where["Bucket"], Delete={"Objects": [{"Key": where["Key"]}]}
        )["Errors"][0],
        "drop the policy": lambda: instance.delete_bucket_policy(Bucket=where["Bucket"]),
    }
    refused = {}
    for name, attack in attacks.items():
        try:
            refused[name] = (attack() or {}).get("Code", "it succeeded")
        except ClientError as exc:
            refused[name] = exc.response["Error"]["Code"]
    assert refused == dict.fromkeys(attacks, "AccessDenied")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        instance.put_object(**where, Body=b"evil", IfNoneMatch="*")
    assert testbed.clients.get("s3").get_object(**where)["Body"].read() == b"good"
