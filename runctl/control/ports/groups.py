"""The port of the ledger's groups; `runctl.aws` implements it."""

from datetime import datetime
from typing import Protocol

from runctl.model.group import Group, WarmInstance
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus
from runctl.model.run import Attempt


class GroupLedger(Protocol):
    """Groups of runs and their warm instances.

    As in the ledger of runs, every move is a conditional write that may be repeated with the same
    arguments, and every read is consistent unless it says otherwise.
    """

    def create_group(self, group: Group) -> Group:
        """Put the group unless it exists; return what the ledger holds.

        Raises RequestError if the name of its execution belongs to another group.
        """
        ...

    def find_group(self, group_id: str) -> Group | None:
        """Return the group, or None."""
        ...

    def find_group_of_execution(self, name: str) -> str | None:
        """Return the group_id of an execution, or None for one that no group has."""
        ...

    def list_groups(self, *, limit: int = 100) -> list[Group]:
        """Return the newest groups first (this one read is eventually consistent)."""
        ...

    def list_unsettled_groups(self) -> list[str]:
        """Return the ids of all groups that are not settled; eventually consistent."""
        ...

    def resume_group(self, group_id: str, *, execution: str, execution_arn: str) -> Group:
        """Move an ended group to a new execution and clear its end; idempotent per execution.

        Raises NotFoundError for an unknown group, RequestError while another execution has it.
        """
        ...

    def request_stop(self, group_id: str) -> Group:
        """Record that no further member is to be started; raises NotFoundError if unknown."""
        ...

    def end_group(
        self,
        group_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Group:
        """Set the group's end unless it has one; return what the ledger holds.

        With `execution_arn`, only while that execution has the group. Raises NotFoundError for an
        unknown group.
        """
        ...

    def record_settled(self, group_id: str, *, end: datetime) -> None:
        """Record that nothing of the group is left to clean up, if that is still its end."""
        ...

    def offer_warm(self, offer: WarmInstance) -> WarmInstance:
        """Record that the agent of `offer.node` waits for another run, unless it is known.

        Returns what the ledger holds: what another node or a later call has made of it stays.
        """
        ...

    def keep_warm(
        self,
        group_id: str,
        instance_id: str,
        *,
        node: NodeId,
        pool: str,
        keep_seconds: int,
        now: datetime,
    ) -> bool:
        """Let an offered instance wait for a claim; return whether it waits, or waited before.

        `pool` is where it was launched, which its agent does not know. False if its agent, the one
        of `node`, has offered nothing or left.
        """
        ...

    def find_warm(self, group_id: str, instance_id: str) -> WarmInstance | None:
        """Return what is known of a warm instance, or None."""
        ...

    def list_warm(self, group_id: str) -> list[WarmInstance]:
        """Return the instances of a group that have waited and have not left.

        One whose agent has just left may be among them: a claim of it fails.
        """
        ...

    def claim_warm(self, warm: WarmInstance, run_id: str, number: int, *, now: datetime) -> Attempt:
        """Give a waiting instance to an open attempt, both or neither; return the attempt.

        The attempt is launched then, and the instance's node is that of the attempt. If it is still
        launching, it did not get it. Raises RunEndedError when the run has ended.
        """
        ...

    def leave_warm(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        """Record that an instance without an attempt ends, so that nothing claims it any more.

        Only while `node` is its last one. Returns what the ledger holds: a claim may have been
        faster. None if it was never offered; then nothing can claim it.
        """
        ...
