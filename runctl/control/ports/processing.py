"""The port by which control functions prepare and finish processing jobs; `runctl.aws` has it."""

from collections.abc import Iterable, Sequence
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

    def find_plan(self, job: str) -> PlanHeader | None:
        """Return the header of a job's plan, None if it has none."""
        ...

    def join_index(self, header: PlanHeader, first_shards: Sequence[int]) -> tuple[int, int]:
        """Store the index of a job from its parts; return how many shards are done and failed.

        The parts begin with these shards. Raises NotFoundError if one is missing.
        """
        ...

    def problem_with_output(self, uri: str) -> str:
        """Return why a job cannot write below a prefix, with the remedy, or an empty text.

        Raises ForbiddenDataError if the caller may not list the prefix.
        """
        ...

    def claim_output(self, uri: str, *, job: str, started_at: datetime) -> str:
        """Reserve a prefix for a job; return why that is not possible, or an empty text."""
        ...
