"""A running local cloud and the few things that most tests do with it."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from runctl.local.client import LocalCloudClient
from runctl.local.daemon import Endpoint

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {
                    "Service": ["ec2.amazonaws.com", "lambda.amazonaws.com", "states.amazonaws.com"]
                },
                "Action": "sts:AssumeRole",
            }
        ],
    }
)


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def eventually(check: Callable[[], Any], *, seconds: float = 120) -> Any:
    """Poll until `check` returns something truthy."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.05)
    raise AssertionError("it never happened")


def packed(code: str, **files: bytes) -> bytes:
    """Return the archive of a function whose handler is in the module `main`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in {"main.py": code, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # the same bytes at any time
    return content.getvalue()


def open_to_others(home: Path) -> list[Path]:
    """List what other users may read in a local cloud's folder, except the roots of instances.

    These are open to the users of an instance; the folder above them keeps others out.
    """
    found = []
    for folder, names, files in os.walk(home):
        if Path(folder) == home / "instances":
            names.clear()
        found += [
            path
            for path in (Path(folder), *(Path(folder, name) for name in files))
            if not path.is_symlink() and path.stat().st_mode & 0o077
        ]
    return found


@dataclass
class Cloud:
    """A running local cloud with its clients."""

    endpoint: Endpoint
    admin: LocalCloudClient

    def client(self, service: str, **credentials: str) -> Any:
        own = self.endpoint.keys
        keys = credentials or {
            "aws_access_key_id": own.access_key_id,
            "aws_secret_access_key": own.secret_access_key,
        }
        config = Config(retries={"total_max_attempts": 1}, inject_host_prefix=False)
        return boto3.client(
            service, endpoint_url=self.endpoint.url, region_name="us-east-1", config=config, **keys
        )

    def role(self, *statements: dict[str, Any]) -> str:
        """Create a role with these statements and return its ARN."""
        iam, name = self.client("iam"), unique("role")
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        if statements:
            document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document)
        return arn

    def assume(self, role_arn: str) -> dict[str, str]:
        """Return credentials of a role."""
        got = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="tester")[
            "Credentials"
        ]
        return {
            "aws_access_key_id": got["AccessKeyId"],
            "aws_secret_access_key": got["SecretAccessKey"],
            "aws_session_token": got["SessionToken"],
        }

    def profile(self, role_arn: str) -> str:
        iam, name = self.client("iam"), unique("profile")
        iam.create_instance_profile(InstanceProfileName=name)
        role = role_arn.rpartition("/")[2]
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=role)
        return name

    def template(self, user_data: str = "", **data: Any) -> str:
        name = unique("template")
        self.client("ec2").create_launch_template(
            LaunchTemplateName=name,
            LaunchTemplateData={
                "ImageId": "resolve:ssm:/aws/service/canonical/ubuntu/24.04",
                "UserData": base64.b64encode(user_data.encode()).decode(),
                "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
                "InstanceInitiatedShutdownBehavior": "terminate",
                **data,
            },
        )
        return name

    def fleet_request(self, template: str, **changes: Any) -> dict[str, Any]:
        overrides = [{"InstanceType": "m5.large", "AvailabilityZone": ZONES[0]}]
        request: dict[str, Any] = {
            "Type": "instant",
            "LaunchTemplateConfigs": [
                {
                    "LaunchTemplateSpecification": {
                        "LaunchTemplateName": template,
                        "Version": "$Latest",
                    },
                    "Overrides": changes.pop("overrides", overrides),
                }
            ],
            "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": changes.pop("target", 1),
                "DefaultTargetCapacityType": changes.pop("market", "spot"),
            },
        }
        return request | changes

    def launch(self, user_data: str = "#!/bin/sh\n", **changes: Any) -> str:
        """Launch an instance and return its id."""
        template = changes.pop("template", None) or self.template(
            user_data, **changes.pop("data", {})
        )
        got = self.client("ec2").create_fleet(**self.fleet_request(template, **changes))
        assert got["Errors"] == []
        instance_id: str = got["Instances"][0]["InstanceIds"][0]
        return instance_id

    def root(self, instance_id: str) -> Path:
        return Path(self.admin.instance(instance_id)["root"])

    def describe(self, instance_id: str) -> dict[str, Any]:
        got = self.client("ec2").describe_instances(InstanceIds=[instance_id])
        found: dict[str, Any] = got["Reservations"][0]["Instances"][0]
        return found

    def function(self, code: str, *, role: str | None = None, **files: bytes) -> str:
        """Create a Lambda function from a module with a `handler`, and return its ARN."""
        made = self.client("lambda").create_function(
            FunctionName=unique("function"),
            Runtime="python3.12",
            Handler="main.handler",
            Role=role or self.role(),
            Code={"ZipFile": packed(code, **files)},
            Timeout=30,
        )
        arn: str = made["FunctionArn"]
        return arn

    def machine(self, states: dict[str, Any], *, role: str | None = None, **top: Any) -> str:
        """Create a JSONata state machine that starts at its first state."""
        definition = {
            "QueryLanguage": "JSONata",
            "StartAt": next(iter(states)),
            "States": states,
            **top,
        }
        made = self.client("stepfunctions").create_state_machine(
            name=unique("machine"), definition=json.dumps(definition), roleArn=role or self.role()
        )
        arn: str = made["stateMachineArn"]
        return arn

    def start(self, machine: str, data: Any = None, **fields: Any) -> str:
        got = self.client("stepfunctions").start_execution(
            stateMachineArn=machine, input=json.dumps(data or {}), **fields
        )
        arn: str = got["executionArn"]
        return arn

    def ended(self, execution: str, *, seconds: float = 120) -> dict[str, Any]:
        """Wait until an execution has ended and describe it."""
        sfn = self.client("stepfunctions")

        def check() -> dict[str, Any] | None:
            found: dict[str, Any] = sfn.describe_execution(executionArn=execution)
            return found if found["status"] != "RUNNING" else None

        described: dict[str, Any] = eventually(check, seconds=seconds)
        return described

    def queue_for(self, pattern: dict[str, Any]) -> Callable[[], list[dict[str, Any]]]:
        """Collect the events that match a pattern; the result reads what has arrived so far."""
        sqs, events, name = self.client("sqs"), self.client("events"), unique("rule")
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = f"arn:aws:sqs:us-east-1:000000000000:{name}"
        events.put_rule(Name=name, EventPattern=json.dumps(pattern))
        events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
        collected: list[dict[str, Any]] = []

        def read() -> list[dict[str, Any]]:
            got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
            for message in got.get("Messages", []):
                collected.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            return collected

        return read
