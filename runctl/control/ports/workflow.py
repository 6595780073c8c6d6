"""The ports of Step Functions, and of the topic for messages about runs."""

from collections.abc import Mapping
from typing import Any, Protocol


class Workflow(Protocol):
    """Step Functions."""

    def report(self, token: str, document: Mapping[str, Any]) -> bool:
        """Complete the Train task with its report; False when the token is no longer valid."""
        ...

    def is_running(self, execution_arn: str) -> bool:
        """Whether the execution is still running."""
        ...

    def stop_run(self, execution_arn: str, *, cause: str) -> None:
        """Stop an execution unless it has already ended."""
        ...

    def status_of(self, execution_arn: str) -> str:
        """Return RUNNING, SUCCEEDED, FAILED, …; empty for an execution that is not known."""
        ...


class Notices(Protocol):
    """The topic for messages about runs."""

    def publish(self, *, subject: str, body: str) -> None:
        """Send one message to all subscribers; a repeated call sends it again."""
        ...
