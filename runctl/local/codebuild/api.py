# ruff: noqa: SLF001 - it answers ministack's calls of CodeBuild
"""CodeBuild's calls on builds, which run here; ministack only records them."""

from __future__ import annotations

import contextvars
import copy
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import codebuild

from runctl.local.codebuild import projects
from runctl.local.codebuild.execution import BuildHost, Execution
from runctl.local.codebuild.records import BuildRecord
from runctl.local.codebuild.settings import effective
from runctl.local.core import iam, records
from runctl.local.core.events import EventBus
from runctl.local.core.protocol import ApiError

logger = logging.getLogger(__name__)

Json = dict[str, Any]
_TOKEN_VALID_SECONDS = 300
_STOP_LIMIT_SECONDS = 20


class Builds:
    """Starts and stops builds; `install` lets ministack's calls and templates use it, once."""

    def __init__(self, host: BuildHost, bus: EventBus) -> None:
        self._host, self._bus = host, bus
        self._executions: dict[str, Execution] = {}
        self._tokens: dict[str, tuple[float, Json, str]] = {}
        self._lock = threading.Lock()

    def install(self) -> None:
        """Replace ministack's handlers."""
        projects.install()
        codebuild._start_build = _answering(self.start)
        codebuild._stop_build = _answering(self.stop)
        delete, describe = codebuild._batch_delete_builds, codebuild._batch_get_builds
        codebuild._batch_get_builds = lambda data: describe({"ids": list(map(_id, data["ids"]))})
        codebuild._batch_delete_builds = lambda data: self._delete(data, delete)

    def start(self, request: Mapping[str, Any]) -> Json:
        """Start a build, and return its record; raise ApiError if it is refused."""
        project = codebuild._projects.get(_name(request.get("projectName", "")))
        if project is None:
            raise ApiError(
                "ResourceNotFoundException",
                f"Project cannot be found: {request.get('projectName')}",
            )
        with self._lock:
            if earlier := self._started_with(request):
                return earlier
            settings = effective(project, request)
            if problem := iam.denied_to_service(settings["serviceRole"], "codebuild.amazonaws.com"):
                raise ApiError("InvalidInputException", problem)
            self._check_limit()
            record = BuildRecord(settings, initiator=_initiator(), bus=self._bus)
            execution = self._executions[record.build_id] = Execution(record, self._host)
            if token := request.get("idempotencyToken"):
                self._tokens[token] = (time.monotonic(), dict(request), record.build_id)
        # The thread needs the account and region of the request.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(execution.run,), daemon=True).start()
        return copy.deepcopy(record.fields)

    def stop(self, request: Mapping[str, Any]) -> Json:
        """Stop a build unless it has ended, and return its record."""
        build_id = _id(request.get("id", ""))
        fields = codebuild._builds.get(build_id)
        if fields is None:
            raise ApiError("ResourceNotFoundException", f"Build cannot be found: {build_id}")
        execution = self._executions.get(build_id)
        if execution and not fields["buildComplete"]:
            execution.stop()
            execution.ended.wait(_STOP_LIMIT_SECONDS)
        return copy.deepcopy(dict(fields))

    def find(self, build_id: str) -> Json:
        """Return the record of a build."""
        return copy.deepcopy(dict(codebuild._builds[build_id]))

    def end_all(self) -> None:
        """Stop every build, and end the engine."""
        for execution in list(self._executions.values()):
            execution.stop()
        for execution in list(self._executions.values()):
            execution.ended.wait(_STOP_LIMIT_SECONDS)
        self._host.engine.close()

    def _started_with(self, request: Mapping[str, Any]) -> Json | None:
        """Return the build that an earlier request with this token started."""
        token = request.get("idempotencyToken", "")
        if token not in self._tokens:
            return None
        at, earlier, build_id = self._tokens[token]
        if time.monotonic() - at > _TOKEN_VALID_SECONDS or build_id not in codebuild._builds:
            return None
        if earlier != request:
            raise ApiError(
                "InvalidInputException",
                "idempotencyToken: a build was started with this token and other parameters",
            )
        return self.find(build_id)

    def _check_limit(self) -> None:
        most = self._host.knobs.max_builds
        if sum(not fields["buildComplete"] for fields in codebuild._builds.values()) >= most:
            raise ApiError(
                "AccountLimitExceededException",
                f"Cannot have more than {most} builds in queue for the account",
            )

    def _delete(self, request: Mapping[str, Any], delete: Callable[[Json], Any]) -> Any:
        ids = list(map(_id, request["ids"]))
        running = [
            build_id
            for build_id in ids
            if not codebuild._builds.get(build_id, {}).get("buildComplete", True)
        ]
        status, headers, body = delete({"ids": [i for i in ids if i not in running]})
        answer = json.loads(body)
        for build_id in running:
            answer["buildsNotDeleted"].append({"id": build_id, "statusCode": "BUILD_IN_PROGRESS"})
        for build_id in answer["buildsDeleted"]:
            self._executions.pop(build_id, None)
        return status, headers, json.dumps(answer).encode()


def _answering(handle: Callable[[Json], Json]) -> Callable[[Json], Any]:
    def answer(request: Json) -> Any:
        try:
            return json_response({"build": handle(request)})
        except ApiError as exc:
            return error_response_json(exc.code, exc.message, exc.status)

    return answer


def _name(identifier: str) -> str:
    return identifier.rpartition(":project/")[2]


def _id(identifier: str) -> str:
    return identifier.rpartition(":build/")[2]


def _initiator() -> str:
    return f"{records.account_id()}/local"
