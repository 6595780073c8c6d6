"""The port of the ledger of runs and their attempts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from runctl.model.agent_ledger import AgentLedger
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, RunStatus
from runctl.model.pool import Pool
from runctl.model.run import Attempt, KeptNode, Run, Source


class Ledger(AgentLedger, Protocol):
    """The state of all runs; every move is a conditional write, every read is consistent.

    Throttling is retried inside, and then raises TransientError. Every write may be repeated with
    the same arguments: if an answer is lost, the caller repeats the call.
    """

    def create_run(self, run: Run) -> Run:
        """Put the run unless it exists; return what the ledger holds."""
        ...

    def list_runs(self, *, limit: int = 100) -> list[Run]:
        """Return the newest runs first (this one read is eventually consistent)."""
        ...

    def list_unsettled_runs(self) -> list[str]:
        """Return the ids of all runs without an end, or whose end was not announced.

        Eventually consistent.
        """
        ...

    def find_run_of_execution(self, name: str) -> str | None:
        """Return the run_id of an execution, or None when it is not ours."""
        ...

    def resume_run(
        self,
        run_id: str,
        *,
        execution: str,
        execution_arn: str,
        first_attempt: int,
        fresh_environment: bool = False,
    ) -> Run:
        """Move an ended run to a new execution and clear its end; idempotent per execution.

        With `fresh_environment` it gets the next generation of its environment.
        Raises NotFoundError for an unknown run, RequestError while another execution has it.
        """
        ...

    def continue_as_new(
        self,
        run_id: str,
        *,
        parent_arn: str,
        execution: str,
        execution_arn: str,
        first_attempt: int,
    ) -> Run:
        """Move a live run from an execution to the one it started; idempotent per execution.

        Raises RequestError unless `parent_arn` has the run, RunEndedError when it has ended.
        """
        ...

    def end_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Run:
        """Set the run's end unless it has one; return what the ledger holds.

        With `execution_arn`, only while that execution has the run: a late event of an earlier
        execution must not end what a later one continued.
        """
        ...

    def record_notified(self, run_id: str, *, end: datetime) -> None:
        """Record that the end of that instant was published, if it is still the run's end."""
        ...

    def open_attempt(
        self,
        run_id: str,
        number: int,
        *,
        launch_try: int,
        source: Source,
        now: datetime,
        count: int = 1,
    ) -> Attempt:
        """Record the source of `count` machines for a launch try, unless that try is recorded.

        Returns what the ledger holds, so that a second caller replays the request of the first.
        Raises RunEndedError when the run has ended.
        """
        ...

    def record_launch(
        self,
        run_id: str,
        number: int,
        *,
        instance_ids: Sequence[str],
        pool: str,
        now: datetime,
        kept: Sequence[KeptNode] = (),
    ) -> Attempt:
        """Store the instances of the attempt's nodes by rank, unless it has some or ended.

        Those that a gang has `kept` come first; from here on they belong to this attempt.
        For each instance its node is stored, too. Returns what the ledger holds: the caller
        terminates what it launched and does not find there. Raises RunEndedError when the run has
        ended meanwhile: the caller terminates them.
        """
        ...

    def record_existing_instance(
        self,
        run_id: str,
        number: int,
        *,
        instance_id: str,
        pool: str,
        instead_of: NodeId | None,
        now: datetime,
    ) -> Attempt:
        """Give the attempt an existing instance, unless it has one or ended.

        Only while no attempt has the machine, or that of `instead_of` has it, which has ended: two
        runs on one machine would compete for its processor, folder and agent. Returns what the
        ledger holds; an attempt that is still launching did not get it. Raises RunEndedError when
        the run has ended meanwhile.
        """
        ...

    def record_token(
        self, run_id: str, number: int, *, token: str, execution_arn: str, now: datetime
    ) -> Attempt:
        """Give the attempt its task token and move the run's fence to it.

        A newer token for the same attempt replaces the older one. An attempt that has ended is
        returned as it is. Raises FencedError when a higher attempt has the fence, RunEndedError
        when the run has ended or another execution has it.
        """
        ...

    def end_attempt(self, run_id: str, number: int, *, outcome: Outcome, now: datetime) -> Attempt:
        """Set the attempt's outcome unless it has one; return what the ledger holds."""
        ...

    def refresh_summary(self, run_id: str) -> bool:
        """Rewrite the summary of the attempts if it differs; return whether it did.

        Every change of an attempt changes the summary with it, unless an earlier version made it.
        """
        ...

    def record_gone(self, node: NodeId) -> None:
        """Record that the instance of a node is stopped or terminated."""
        ...

    def find_instance(self, instance_id: str) -> NodeId | None:
        """Return the node on an instance, or None for an instance that is not ours."""
        ...

    def cool_pool(self, pool: Pool, *, until: datetime) -> None:
        """Record that a pool refused or reclaimed a machine; the later `until` wins."""
        ...

    def cooling_pools(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, datetime]:
        """Return those of `pools` that are cooling down, each with its end."""
        ...
