"""The start of an execution that prepares a run, a sweep or a job."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from runctl.model.request_checks import parse_instant

# Step Functions defines this key of the input: the console links the two executions by it.
STARTED_BY = "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"


@dataclass(frozen=True, kw_only=True)
class ExecutionStart:
    """The execution that prepares the run, from the state machine's context.

    `parent_arn` is the execution that started it, of this or another state machine, if it is known.
    """

    arn: str
    name: str
    started_at: datetime
    parent_arn: str = ""

    @classmethod
    def from_context(cls, context: Mapping[str, str]) -> "ExecutionStart":
        """Read what a state machine passes of its context."""
        started_at = parse_instant(context["start_time"])
        return cls(
            arn=context["arn"],
            name=context["name"],
            started_at=started_at if started_at.tzinfo else started_at.replace(tzinfo=timezone.utc),
        )
