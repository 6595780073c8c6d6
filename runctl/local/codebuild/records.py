# ruff: noqa: SLF001 - ministack's records of builds are what its calls answer with
"""The records of builds, as BatchGetBuilds returns them, and the events about them."""

from __future__ import annotations

import time
from typing import Any

from ministack.services import codebuild

from runctl.local.codebuild.settings import log_names
from runctl.local.core.events import EventBus
from runctl.local.core.knobs import BUILD_EVENT

Json = dict[str, Any]


class BuildRecord:
    """A build's record, which changes as the build proceeds."""

    def __init__(self, settings: Json, *, initiator: str, bus: EventBus) -> None:
        self._bus = bus
        self.settings = settings
        self.build_id: str = codebuild._build_id(settings["name"])
        self.unique: str = self.build_id.rpartition(":")[2]
        self.log = log_names(settings, self.unique)
        self.fields: Json = {
            **codebuild._make_build_record(settings, self.build_id),
            "sourceVersion": settings.get("sourceVersion") or "",
            "serviceRole": settings["serviceRole"],
            "queuedTimeoutInMinutes": settings["queuedTimeoutInMinutes"],
            "timeoutInMinutes": settings["timeoutInMinutes"],
            "cache": settings.get("cache") or {"type": "NO_CACHE"},
            "initiator": initiator,
            "buildComplete": False,
            "buildStatus": "IN_PROGRESS",
            "logs": self._logs(),
            "phases": [],
        }
        del self.fields["endTime"]
        codebuild._builds[self.build_id] = self.fields
        self.begin("SUBMITTED")
        self.end()
        self.begin("QUEUED")
        self._publish()

    @property
    def arn(self) -> str:
        """The ARN of the build."""
        return str(self.fields["arn"])

    def begin(self, phase: str) -> None:
        """Begin a phase."""
        self.fields["currentPhase"] = phase
        self.fields["phases"].append({"phaseType": phase, "startTime": time.time()})

    def end(self, status: str = "SUCCEEDED", *, code: str = "", message: str = "") -> None:
        """End the current phase."""
        phase = self.fields["phases"][-1]
        now = time.time()
        phase.update(
            phaseStatus=status,
            endTime=now,
            durationInSeconds=int(now - phase["startTime"]),
            contexts=[{"statusCode": code, "message": message}],
        )

    def finish(self, status: str) -> None:
        """End the build."""
        if "endTime" not in self.fields["phases"][-1]:
            self.end(status)
        self.begin("COMPLETED")
        self.fields.update(endTime=time.time(), buildStatus=status, buildComplete=True)
        self._publish()

    def _logs(self) -> Json:
        config = self.settings.get("logsConfig") or {}
        logs: Json = {
            "cloudWatchLogs": {"status": "ENABLED", **(config.get("cloudWatchLogs") or {})},
            "s3Logs": {"status": "DISABLED"},
        }
        if self.log:
            group, stream = self.log
            region, account = self._region_and_account()
            logs |= {
                "groupName": group,
                "streamName": stream,
                "cloudWatchLogsArn": (
                    f"arn:aws:logs:{region}:{account}:log-group:{group}:log-stream:{stream}"
                ),
            }
        return logs

    def _region_and_account(self) -> tuple[str, str]:
        region, account = self.settings["arn"].split(":")[3:5]
        return region, account

    def _publish(self) -> None:
        fields, environment = self.fields, self.fields["environment"]
        detail = {
            "build-status": fields["buildStatus"],
            "project-name": fields["projectName"],
            "build-id": fields["arn"],
            "current-phase": fields["currentPhase"],
            "current-phase-context": "[]",
            "version": "1",
            "additional-information": {
                "build-complete": fields["buildComplete"],
                "build-number": float(fields["buildNumber"]),
                "build-start-time": _written(fields["startTime"]),
                "initiator": fields["initiator"],
                "timeout-in-minutes": float(fields["timeoutInMinutes"]),
                "source": {"type": fields["source"].get("type", "NO_SOURCE")},
                "source-version": fields["sourceVersion"],
                "environment": {
                    "image": environment.get("image", ""),
                    "type": environment.get("type", ""),
                    "compute-type": environment.get("computeType", ""),
                    "privileged-mode": bool(environment.get("privilegedMode")),
                    "environment-variables": environment["environmentVariables"],
                },
                "logs": {
                    "group-name": fields["logs"].get("groupName", ""),
                    "stream-name": fields["logs"].get("streamName", ""),
                },
                "phases": [_described(phase) for phase in fields["phases"]],
            },
        }
        self._bus.publish(BUILD_EVENT, detail, resource=self.arn, source="aws.codebuild")


def _described(phase: Json) -> Json:
    described: Json = {
        "phase-type": phase["phaseType"],
        "start-time": _written(phase["startTime"]),
    }
    if "endTime" in phase:
        described |= {
            "end-time": _written(phase["endTime"]),
            "duration-in-seconds": float(phase["durationInSeconds"]),
            "phase-status": phase["phaseStatus"],
            "phase-context": [
                f"{context['statusCode']}: {context['message']}" for context in phase["contexts"]
            ],
        }
    return described


def _written(seconds: float) -> str:
    """Format a time as CodeBuild's events do, such as `Sep 1, 2017 4:12:29 PM`."""
    at = time.gmtime(seconds)
    return time.strftime(f"%b {at.tm_mday}, %Y {at.tm_hour % 12 or 12}:%M:%S %p", at)
