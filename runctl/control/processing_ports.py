"""The port by which control functions prepare and finish processing jobs; `runctl.aws` has it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from runctl.model.shard import PlanHeader


class ProcessingJobs(Protocol):
    """The plans and the outputs of processing jobs. Every call may be repeated."""

    def put_plan(self, header: PlanHeader, lines: Iterable[str]) -> PlanHeader:
        """Store the plan of a job unless it has one; return the header of the one that it has.

        The first plan of a job remains: all its attempts have the same shards.
        """
        ...

    def problem_with_output(self, uri: str) -> str:
        """Return why a job cannot write below a prefix, with the remedy, or an empty text."""
        ...

    def claim_output(self, uri: str, *, job: str, started_at: datetime) -> str:
        """Reserve a prefix for a job; return why that is not possible, or an empty text."""
        ...
