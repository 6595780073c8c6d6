"""The end of an execution, as followers find it."""

from datetime import datetime, timedelta, timezone

import pytest

from runctl.aws.workflow import Execution
from runctl.model.errors import NotFoundError, RequestError, RunctlError
from runctl.report.ended_execution import (
    CLEAN_UP_TIMEOUT,
    find_ended,
    refusal,
    require_recorded,
)

ARN = "arn:aws:states:us-east-1:1:execution:runctl-sweep:s"


def execution(status: str, *, seconds: float = 0.0, cause: str = "") -> Execution:
    """Return an execution that ended some seconds ago."""
    ended_at = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    return Execution(
        arn=ARN, name="s", status=status, started_at=ended_at, ended_at=ended_at, cause=cause
    )


class Workflow:
    """Step Functions with one execution, or none."""

    def __init__(self, found: Execution | None) -> None:
        self.found = found

    def find_execution(self, _arn: str) -> Execution | None:
        return self.found


def test_only_an_execution_that_has_ended_is_found() -> None:
    ended = execution("ABORTED")
    assert find_ended(Workflow(ended), ARN, waited=0) is ended
    assert find_ended(Workflow(execution("RUNNING")), ARN, waited=0) is None


def test_an_execution_may_take_a_moment_to_appear() -> None:
    limit = CLEAN_UP_TIMEOUT.total_seconds()
    assert find_ended(Workflow(None), ARN, waited=limit) is None
    with pytest.raises(NotFoundError, match="does not exist"):
        find_ended(Workflow(None), ARN, waited=limit + 1)


def test_the_error_names_what_did_not_begin() -> None:
    aborted = refusal(execution("ABORTED"), "sweep")
    assert str(aborted) == "the execution s ended as ABORTED before the sweep began"
    refused = refusal(execution("FAILED", cause="script: does not exist"), "sweep")
    assert isinstance(refused, RequestError)
    assert str(refused) == "script: does not exist"


def test_an_end_that_nobody_has_recorded_is_an_error_after_a_while() -> None:
    limit = CLEAN_UP_TIMEOUT.total_seconds()
    require_recorded(execution("ABORTED", seconds=limit - 60), "job")
    with pytest.raises(RunctlError, match="the end of the job: clean-up did not run"):
        require_recorded(execution("ABORTED", seconds=limit + 60), "job")
