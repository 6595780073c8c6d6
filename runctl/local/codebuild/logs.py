# ruff: noqa: SLF001 - CodeBuild writes to CloudWatch Logs inside ministack
"""The log of a build in CloudWatch Logs, written with the rights of the build's service role."""

from __future__ import annotations

import time

from ministack.services import cloudwatch_logs, codebuild

from runctl.local.core import iam, records


class LogError(Exception):
    """The service role may not write the log of a build."""

    code = "ACCESS_DENIED"


class BuildLog:
    """Appends lines to the stream of a build; without a stream, it drops them."""

    def __init__(self, names: tuple[str, str] | None, role: str) -> None:
        self._append = None
        if names is None:
            return
        group, stream = names
        arn = f"arn:aws:logs:{records.region()}:{records.account_id()}:log-group:{group}"
        needed = [("logs:CreateLogStream", f"{arn}:log-stream:{stream}")]
        needed.append(("logs:PutLogEvents", f"{arn}:log-stream:{stream}"))
        if group not in cloudwatch_logs._log_groups:
            needed.append(("logs:CreateLogGroup", arn))
        for action, resource in needed:
            if told := iam.denied_to_role(role, action, resource):
                raise LogError(
                    f"Service role {role} does not allow AWS CodeBuild to create Amazon CloudWatch "
                    f"Logs log streams. Error message: {told}"
                )
        self._append = codebuild._log_sink({"logs": {"groupName": group, "streamName": stream}})

    def add(self, text: str) -> None:
        """Append the lines of a text, each as an event."""
        if self._append:
            for line in filter(None, text.splitlines()):
                self._append(line)

    def add_own(self, text: str) -> None:
        """Append a line about the build itself, in CodeBuild's form."""
        self.add(f"[Container] {time.strftime('%Y/%m/%d %H:%M:%S')} {text}")
