"""Step Functions: reports on task tokens, and executions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem

# A token that was used, that timed out or that a retry or redrive replaced.
SPENT_TOKEN = frozenset({"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"})


@dataclass(frozen=True, kw_only=True)
class Execution:
    """An execution as Step Functions sees it; `status` is RUNNING, SUCCEEDED, FAILED, …."""

    arn: str
    name: str
    status: str
    started_at: datetime
    ended_at: datetime | None = None
    output: Mapping[str, Any] | None = None
    error: str = ""
    cause: str = ""

    @property
    def is_running(self) -> bool:
        """Whether it is running, or waits for a redrive to start."""
        return self.status in {"RUNNING", "PENDING_REDRIVE"}


class StepFunctions:
    """Implements `runctl.control.ports.Workflow`, and starts and stops runs."""

    def __init__(self, client: Any, *, state_machine_arn: str = "") -> None:
        self._client = client
        self._state_machine_arn = state_machine_arn

    def report(self, token: str, document: Mapping[str, Any]) -> bool:
        """Complete the Train task with its report; False when the token is no longer valid."""
        with translated():
            try:
                self._client.send_task_success(taskToken=token, output=json.dumps(document))
            except ClientError as exc:
                if code_of(exc) in SPENT_TOKEN:
                    return False
                raise
        return True

    def beat(self, token: str) -> bool:
        """Send a heartbeat of the Train task; False when the token is no longer valid."""
        with translated():
            try:
                self._client.send_task_heartbeat(taskToken=token)
            except ClientError as exc:
                if code_of(exc) in SPENT_TOKEN:
                    return False
                raise
        return True

    def is_running(self, execution_arn: str) -> bool:
        """Whether the execution is still running."""
        execution = self.find_execution(execution_arn)
        return execution is not None and execution.is_running

    def status_of(self, execution_arn: str) -> str:
        """Return RUNNING, SUCCEEDED, FAILED, …; empty for an execution that is not known."""
        execution = self.find_execution(execution_arn)
        return "" if execution is None else execution.status

    def execution_arn(self, name: str) -> str:
        """Return the ARN of an execution of our state machine."""
        return f"{self._state_machine_arn.replace(':stateMachine:', ':execution:')}:{name}"

    def find_execution(self, execution_arn: str) -> Execution | None:
        """Return the execution, or None; Step Functions forgets it 90 days after its end."""
        with translated():
            try:
                answer = self._client.describe_execution(executionArn=execution_arn)
            except ClientError as exc:
                if code_of(exc) == "ExecutionDoesNotExist":
                    return None
                raise
        output = answer.get("output")
        return Execution(
            arn=answer["executionArn"],
            name=answer["name"],
            status=answer["status"],
            started_at=answer["startDate"],
            ended_at=answer.get("stopDate"),
            output=None if output is None else json.loads(output),
            error=answer.get("error", ""),
            cause=answer.get("cause", ""),
        )

    def start_run(self, name: str, document: Mapping[str, Any]) -> str:
        """Start an execution and return its ARN.

        The same name with the same input again is the same execution, while it runs. Raises
        InvalidRequestError when the name is taken: a closed execution keeps it for 90 days.
        """
        with translated():
            try:
                answer = self._client.start_execution(
                    stateMachineArn=self._state_machine_arn,
                    name=name,
                    # Sorted, so that the same request is the same input.
                    input=json.dumps(document, sort_keys=True),
                )
            except ClientError as exc:
                if code_of(exc) == "ExecutionAlreadyExists":
                    raise InvalidRequestError(
                        (
                            Problem(
                                "name",
                                f"{name!r} is taken by an earlier execution; choose another",
                            ),
                        )
                    ) from exc
                if code_of(exc) == "StateMachineDoesNotExist":
                    raise NotFoundError(
                        f"there is no state machine {self._state_machine_arn}; run `cdk deploy`"
                    ) from exc
                raise
        return str(answer["executionArn"])

    def stop_run(self, execution_arn: str, *, cause: str) -> None:
        """Stop an execution unless it has already ended; NotFoundError if there is none."""
        with translated():
            try:
                self._client.stop_execution(executionArn=execution_arn, cause=cause)
            except ClientError as exc:
                if code_of(exc) == "ExecutionDoesNotExist":
                    raise NotFoundError(f"there is no execution {execution_arn}") from exc
                raise
