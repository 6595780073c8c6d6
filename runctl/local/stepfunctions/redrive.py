# ruff: noqa: SLF001 - it adds to ministack's Step Functions
"""RedriveExecution: restart an execution in the state in which it ended."""

from __future__ import annotations

import contextvars
import json
import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import eventbridge
from ministack.services import stepfunctions as sfn

from runctl.local.stepfunctions.executions import Execution

_UNSUCCESSFUL = frozenset({"FAILED", "TIMED_OUT", "ABORTED"})
_REDRIVABLE_FOR = timedelta(days=14)
_MAX_EXECUTION_TIME = timedelta(days=365)
# The history holds 25,000 events, and a redrive adds at least two.
_TOO_MANY_EVENTS = 24_999
_ARN = re.compile(r"arn:[a-z-]+:states:[a-z0-9-]+:\d{12}:(execution|express):.+")
_CLIENT_TOKEN = re.compile(r"[!-~]{1,64}")
_TOKENS_KEPT = 10
_TOKEN_VALID_FOR = timedelta(minutes=15)


@dataclass(frozen=True)
class _Used:
    """A client token with which an execution was redriven."""

    token: str
    at: datetime
    redrive_date: str


def install() -> None:
    """Make ministack answer RedriveExecution, and report redrives with executions."""
    _answer_redrives(Redrives())
    _describe_redrives()
    _list_redrives()
    _announce_redrives()


class Redrives:
    """The handler of RedriveExecution."""

    def __init__(self) -> None:
        self._used: dict[str, deque[_Used]] = {}

    def redrive(self, request: Mapping[str, Any]) -> Any:
        """Answer a request."""
        arn, token = request.get("executionArn"), request.get("clientToken")
        if not isinstance(arn, str):
            return error_response_json("ValidationException", "executionArn is required", 400)
        if token is not None and not _CLIENT_TOKEN.fullmatch(str(token)):
            return error_response_json("ValidationException", "clientToken is not valid", 400)
        if not _ARN.fullmatch(arn):
            return error_response_json("InvalidArn", f"Invalid Arn: '{arn}'", 400)
        execution = sfn._executions.get(arn)
        if execution is None:
            return error_response_json(
                "ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'", 400
            )
        now = datetime.now(timezone.utc)
        used = self._used.setdefault(arn, deque(maxlen=_TOKENS_KEPT))
        for earlier in used:
            if earlier.token == token and now - earlier.at < _TOKEN_VALID_FOR:
                return json_response({"redriveDate": earlier.redrive_date})
        if "mapRunArn" in execution:
            reason = "Execution is of a Map Run, which only a redrive of its parent redrives"
            return error_response_json("ExecutionNotRedrivable", reason, 400)
        machine = sfn._state_machines.get(execution["stateMachineArn"])
        if reason := why_not_redrivable(execution, machine, now=now):
            return error_response_json("ExecutionNotRedrivable", reason, 400)
        date = str(next_life(execution)["redriveDate"])
        # The thread needs the account and region of the request.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(sfn._run_execution, arn), daemon=True).start()
        if token is not None:
            used.append(_Used(str(token), now, date))
        return json_response({"redriveDate": date})


def why_not_redrivable(
    execution: Execution, machine: Mapping[str, Any] | None, *, now: datetime
) -> str:
    """Return why an execution cannot be redriven; empty if it can."""
    if machine is None:
        return "State machine is in DELETING status"
    if execution.get("sync") or machine.get("type") == "EXPRESS":
        return "Execution is of an EXPRESS state machine and cannot be redriven"
    if execution["status"] not in _UNSUCCESSFUL:
        return f"Execution is {execution['status']} and cannot be redriven"
    if len(execution["events"]) >= _TOO_MANY_EVENTS:
        return "Execution history event limit exceeded"
    if now - _time_of(execution["startDate"]) > _MAX_EXECUTION_TIME:
        return "Execution has exceeded the max execution time"
    if now - _time_of(execution["stopDate"]) > _REDRIVABLE_FOR:
        return "Execution redrivable period exceeded"
    return ""


def _time_of(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def next_life(ended: Execution) -> Execution:
    """Begin and return the record of an execution that is redriven."""
    date = sfn.now_iso()
    count = ended.get("redriveCount", 0) + 1
    execution = {
        **{name: value for name, value in ended.items() if name not in {"error", "cause"}},
        "status": "RUNNING",
        "stopDate": None,
        "output": None,
        "events": list(ended["events"]),
        "redriveCount": count,
        "redriveDate": date,
    }
    arn = execution["executionArn"]
    sfn._executions[arn] = execution
    details = {"executionRedrivenEventDetails": {"redriveCount": count}}
    sfn._add_event(execution, "ExecutionRedriven", details)
    sfn._emit_execution_status_event(execution)
    return execution


def _facts(execution: Execution) -> dict[str, Any]:
    """Return what is reported about an execution's redrives."""
    machine = sfn._state_machines.get(execution["stateMachineArn"])
    reason = why_not_redrivable(execution, machine, now=datetime.now(timezone.utc))
    redrivable = "REDRIVABLE_BY_MAP_RUN" if "mapRunArn" in execution else "REDRIVABLE"
    facts = {
        "redriveCount": execution.get("redriveCount", 0),
        "redriveStatus": "NOT_REDRIVABLE" if reason else redrivable,
    }
    if date := execution.get("redriveDate"):
        facts["redriveDate"] = date
    if reason:
        facts["redriveStatusReason"] = reason
    return facts


def _answer_redrives(redrives: Redrives) -> None:
    handle = sfn.handle_request

    async def handle_request(
        method: str, path: str, headers: Mapping[str, str], body: bytes, query: Any
    ) -> Any:
        if headers.get("x-amz-target", "").rpartition(".")[2] != "RedriveExecution":
            return await handle(method, path, headers, body, query)
        try:
            request = json.loads(body or b"{}")
        except json.JSONDecodeError:
            return error_response_json("SerializationException", "Invalid JSON", 400)
        return sfn._finalize_response(redrives.redrive(request))

    sfn.handle_request = handle_request


def _describe_redrives() -> None:
    describe = sfn._describe_execution

    def describe_execution(data: Mapping[str, Any]) -> Any:
        status, headers, body = describe(data)
        execution = sfn._executions.get(data.get("executionArn"))
        if status != 200 or execution is None:
            return status, headers, body
        return json_response({**json.loads(body), **_facts(execution)})

    sfn._describe_execution = describe_execution


def _list_redrives() -> None:
    listed = sfn._list_executions

    def list_executions(data: Mapping[str, Any]) -> Any:
        status, headers, body = listed(data)
        if status != 200:
            return status, headers, body
        answer = json.loads(body)
        for item in answer["executions"]:
            execution = sfn._executions.get(item["executionArn"], {})
            item["redriveCount"] = execution.get("redriveCount", 0)
            if date := execution.get("redriveDate"):
                item["redriveDate"] = date
        return json_response(answer)

    sfn._list_executions = list_executions


def _announce_redrives() -> None:
    put = eventbridge._put_events

    def put_events(data: dict[str, Any], **options: Any) -> Any:
        for entry in data.get("Entries", []):
            if entry.get("Source") == "aws.states" and options.get("allow_aws_source"):
                _add_redrives(entry)
        return put(data, **options)

    eventbridge._put_events = put_events


def _add_redrives(entry: dict[str, Any]) -> None:
    detail = json.loads(entry["Detail"])
    execution = sfn._executions.get(detail.get("executionArn"))
    if execution is not None:
        facts = {"redriveDate": None, "redriveStatusReason": None, **_facts(execution)}
        facts["redriveDate"] = sfn._iso_to_epoch_ms(facts["redriveDate"])
        entry["Detail"] = json.dumps({**detail, **facts})
