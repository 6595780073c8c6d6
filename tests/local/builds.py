"""CodeBuild projects of a local cloud, and the builds that tests start."""

from __future__ import annotations

import json
from typing import Any

from tests.local.clouds import Cloud, eventually, unique

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "codebuild.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
)
LOGS = {
    "Effect": "Allow",
    "Action": ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
    "Resource": "*",
}


def spec(*build: str, env: dict[str, Any] | None = None, **phases: Any) -> str:
    """Write a buildspec whose phase `build` has these commands."""
    if build:
        phases["build"] = {"commands": list(build), **phases.get("build", {})}
    return json.dumps({"version": 0.2, "env": {"shell": "bash", **(env or {})}, "phases": phases})


def service_role(cloud: Cloud, *statements: dict[str, Any], trust: str = TRUST) -> str:
    iam, name = cloud.client("iam"), unique("builder")
    arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    if statements:
        document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document)
    return arn


def project(cloud: Cloud, buildspec: str, **changes: Any) -> str:
    """Create a project, and return its name."""
    name = unique("project")
    environment = {
        "type": "LINUX_CONTAINER",
        "image": "aws/codebuild/standard:7.0",
        "computeType": "BUILD_GENERAL1_SMALL",
        **changes.pop("environment", {}),
    }
    cloud.client("codebuild").create_project(
        name=name,
        source={"type": "NO_SOURCE", "buildspec": buildspec, **changes.pop("source", {})},
        artifacts={"type": "NO_ARTIFACTS"},
        environment=environment,
        serviceRole=changes.pop("serviceRole", None) or service_role(cloud, LOGS),
        **changes,
    )
    return name


def describe(cloud: Cloud, build_id: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.client("codebuild").batch_get_builds(ids=[build_id])["builds"][0]
    return found


def ended(cloud: Cloud, build_id: str) -> dict[str, Any]:
    """Wait until a build has ended, and describe it."""

    def check() -> dict[str, Any] | None:
        found = describe(cloud, build_id)
        return found if found["buildComplete"] else None

    found: dict[str, Any] = eventually(check)
    return found


def run(cloud: Cloud, name: str, **fields: Any) -> dict[str, Any]:
    """Start a build of a project and wait until it has ended."""
    started = cloud.client("codebuild").start_build(projectName=name, **fields)["build"]
    return ended(cloud, started["id"])


def output(cloud: Cloud, build: dict[str, Any]) -> list[str]:
    """Return the lines of a build's log, without those of CodeBuild itself."""
    logs = build["logs"]
    events = cloud.client("logs").get_log_events(
        logGroupName=logs["groupName"], logStreamName=logs["streamName"], startFromHead=True
    )["events"]
    lines = [event["message"] for event in events]
    return [line for line in lines if not line.startswith("[Container] ")]


def phases(build: dict[str, Any]) -> dict[str, str]:
    return {phase["phaseType"]: phase.get("phaseStatus", "") for phase in build["phases"]}


def problem(build: dict[str, Any]) -> str:
    """Return the messages of a build's phases."""
    contexts = [context for phase in build["phases"] for context in phase.get("contexts", [])]
    return "\n".join(f"{c['statusCode']}: {c['message']}" for c in contexts if c["message"])
