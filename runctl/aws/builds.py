"""Image builds in CodeBuild: how one ended, and the last lines of its log."""

from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.image_build import BuildLines, EndedBuild

# The commands of the buildspec, which CodeBuild repeats, are some of them.
_LAST_EVENTS = 1000


class CodeBuilds:
    """Implements `runctl.control.ports.Builds`."""

    def __init__(self, codebuild: Any, logs: Any) -> None:
        self._codebuild = codebuild
        self._logs = logs

    def find(self, build_id: str) -> EndedBuild | None:
        """Return a build with the last lines of its output; None for one that is not known."""
        with translated():
            answer = self._codebuild.batch_get_builds(ids=[build_id])
        if not answer["builds"]:
            return None
        build = answer["builds"][0]
        where = build.get("logs", {})
        lines = self._lines(where.get("groupName", ""), where.get("streamName", ""))
        return EndedBuild(status=str(build["buildStatus"]), lines=lines)

    def _lines(self, group: str, stream: str) -> tuple[str, ...]:
        if not group or not stream:
            return ()
        with translated():
            try:
                answer = self._logs.get_log_events(
                    logGroupName=group, logStreamName=stream, limit=_LAST_EVENTS
                )
            except ClientError as exc:
                if code_of(exc) == "ResourceNotFoundException":
                    return ()
                raise
        texts = "\n".join(event["message"].rstrip("\n") for event in answer["events"])
        filtered = BuildLines()
        return tuple(line for line in texts.splitlines() if filtered.is_output(line))
