"""Executions of the real definitions whose functions follow a script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stacks.workflows.definition import RUN, called_functions, read_definition, rendered
from tests.local.clouds import Cloud, unique

BUCKET = "scripts"

# A function for each placeholder: it records its event, and then answers, raises, or reports on the
# token as the run's script says; the last line of a part is repeated.
FUNCTION = """
import json
import boto3

NAME = {name!r}
BUCKET = {bucket!r}

def handler(event, context):
    s3 = boto3.client("s3")
    named = [event.get(key) for key in ("group_id", "run_id", "name")]
    run = next(filter(None, named), None) or event["execution"]["name"]
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
class Walk:
    """How an execution went."""

    described: Mapping[str, Any]
    states: list[str]
    calls: list[tuple[str, Any]]

    @property
    def output(self) -> Any:
        return json.loads(self.described["output"])

    def payloads(self, function: str) -> list[Any]:
        return [payload for name, payload in self.calls if name == function]


class ScriptedWorkflow:
    """A state machine and its scripted functions; `values` fills in other placeholders.

    The bucket of a parent is that of the scripts.
    """

    def __init__(
        self, cloud: Cloud, name: str = RUN, values: Mapping[str, str] | None = None
    ) -> None:
        self.cloud = cloud
        cloud.client("s3").create_bucket(Bucket=BUCKET)
        definition = read_definition(name)
        functions = {
            function: cloud.function(FUNCTION.format(name=function, bucket=BUCKET))
            for function in called_functions(definition)
        }
        known = {"bucket": BUCKET, **functions, **(values or {})}
        made = cloud.client("stepfunctions").create_state_machine(
            name=f"runctl-{name}",
            definition=rendered(definition, known.__getitem__),
            roleArn=cloud.role(),
        )
        self.machine: str = made["stateMachineArn"]

    def begin(self, script: Mapping[str, list[dict[str, Any]]], request: Any = None) -> str:
        """Start an execution that follows a script; return its ARN."""
        name = unique("run")
        body = json.dumps(script).replace("RUN", name).encode()
        self.cloud.client("s3").put_object(Bucket=BUCKET, Key=f"scripts/{name}", Body=body)
        return self.cloud.start(self.machine, request or {"script": "train.py"}, name=name)

    def run(self, script: Mapping[str, list[dict[str, Any]]], request: Any = None) -> Walk:
        """Run an execution to its end."""
        return self.walk_of(self.begin(script, request))

    def walk_of(self, execution: str) -> Walk:
        """Wait for an execution's end, and return how it went."""
        described = self.cloud.ended(execution, seconds=240)
        history = self.cloud.client("stepfunctions").get_execution_history(
            executionArn=execution, maxResults=1000
        )["events"]
        entered = [event.get("stateEnteredEventDetails") for event in history]
        s3, calls = self.cloud.client("s3"), []
        prefix = f"calls/{described['name']}/"
        for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
            payload = json.load(s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"])
            calls.append((entry["Key"].rpartition("/")[2].partition("-")[2], payload))
        return Walk(described, [details["name"] for details in entered if details], calls)
