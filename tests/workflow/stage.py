"""Plays one run after another on the real definition."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stacks.workflows.definition import placeholders, read_definition, rendered
from tests.local.clouds import Cloud, unique

BUCKET = "plays"

# One actor for each function: it notes what it was called with, and then answers, raises, or
# reports on the token as the script of the run says; the last line of a part is repeated.
ACTOR = """
import json
import boto3

NAME = {name!r}
BUCKET = {bucket!r}

def handler(event, context):
    s3 = boto3.client("s3")
    run = event.get("run_id") or event.get("name") or event["execution"]["name"]
    script = json.load(s3.get_object(Bucket=BUCKET, Key=f"scripts/{{run}}")["Body"])
    prefix = f"calls/{{run}}/"
    calls = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    earlier = sum(one["Key"].endswith(f"-{{NAME}}") for one in calls)
    key = f"{{prefix}}{{len(calls):04d}}-{{NAME}}"
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(event).encode())
    part = script[NAME]
    line = part[min(earlier, len(part) - 1)]
    if "raises" in line:
        raise type(line["raises"], (Exception,), {{}})(line["message"])
    if "reports" in line:
        boto3.client("stepfunctions").send_task_success(
            taskToken=event["token"], output=json.dumps(line["reports"])
        )
    return line.get("answers")
"""


@dataclass(frozen=True)
class Play:
    """How one execution went."""

    described: Mapping[str, Any]
    states: list[str]
    calls: list[tuple[str, Any]]

    @property
    def output(self) -> Any:
        return json.loads(self.described["output"])

    def payloads(self, function: str) -> list[Any]:
        return [payload for name, payload in self.calls if name == function]


class Stage:
    """The state machine and its actors."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        cloud.client("s3").create_bucket(Bucket=BUCKET)
        definition = read_definition()
        actors = {
            name: cloud.function(ACTOR.format(name=name, bucket=BUCKET))
            for name in placeholders(definition)
        }
        made = cloud.client("stepfunctions").create_state_machine(
            name="runctl-train",
            definition=rendered(definition, actors.__getitem__),
            roleArn=cloud.role(),
        )
        self.machine: str = made["stateMachineArn"]

    def begin(self, script: Mapping[str, list[dict[str, Any]]], request: Any = None) -> str:
        """Start an execution that follows a script; return its ARN."""
        name = unique("run")
        body = json.dumps(script).replace("RUN", name).encode()
        self.cloud.client("s3").put_object(Bucket=BUCKET, Key=f"scripts/{name}", Body=body)
        return self.cloud.start(self.machine, request or {"script": "train.py"}, name=name)

    def play(self, script: Mapping[str, list[dict[str, Any]]], request: Any = None) -> Play:
        """Run an execution to its end."""
        return self.seen(self.begin(script, request))

    def seen(self, execution: str) -> Play:
        """Wait for an execution's end, and tell how it went."""
        described = self.cloud.ended(execution, seconds=240)
        history = self.cloud.client("stepfunctions").get_execution_history(
            executionArn=execution, maxResults=1000
        )["events"]
        entered = [event.get("stateEnteredEventDetails") for event in history]
        s3, calls = self.cloud.client("s3"), []
        prefix = f"calls/{described['name']}/"
        for one in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
            payload = json.load(s3.get_object(Bucket=BUCKET, Key=one["Key"])["Body"])
            calls.append((one["Key"].rpartition("/")[2].partition("-")[2], payload))
        return Play(described, [one["name"] for one in entered if one], calls)
