"""Which session an instance gets, by what the ledger knows of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from runctl.model.group import WarmInstance
from runctl.model.node import NodeId
from runctl.model.run import Attempt, Run
from runctl.policy.environment_areas import may_share
from runctl.policy.session_policy import followed_by

# How long the agent of an attempt that has ended, or whose run has, may still ask for a session: it
# may have been restarted while it saved its last checkpoint or reported its end. A session that it
# got before lasts longer anyway.
UNTIL_OVER = timedelta(minutes=15)
# The value of the tag `Environments` of sessions that may store environments for all runs.
SHARED = "shared"


class Purpose(str, Enum):
    """What a session is for."""

    AGENT = "agent"
    TRAINER = "trainer"


class Reach(str, Enum):
    """What a session gives access to."""

    RUN = "run"  # what belongs to the run and what its request names
    WARM = "warm"  # the item of an instance that waits for another run of its group
    TRAINER = "trainer"  # the run's own objects, for a trainer that requests credentials


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the ledger knows about an instance, or about the node that it claims to be."""

    instance_id: str
    node: NodeId | None = None
    run: Run | None = None
    attempt: Attempt | None = None
    warm: WarmInstance | None = None


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A session for the node of a run."""

    node: NodeId
    run: Run
    reach: Reach
    instance_id: str

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of the session, which the policy of its role refers to.

        Without a value there is no tag: then nothing that depends on it is permitted.
        """
        group = self.run.request.group
        named = {"Group": group, "Instance": self.instance_id if group else ""}
        if self.reach is Reach.RUN:
            named |= {
                "RunId": self.node.run_id,
                "Attempt": f"{self.node.attempt:04d}",
                "Followed": followed_by(self.run.request),
                "Environments": SHARED if may_share(self.run.request) else "",
            }
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, kw_only=True)
class Denial:
    """No session: `unknown`, so that the instance asks again, `over`, or `refused`."""

    status: str
    reason: str = ""


UNKNOWN = Denial(status="unknown")


def decide_access(
    known: Known, purpose: Purpose, *, now: datetime, claimed: Known | None = None
) -> Grant | Denial:
    """Return the session for an instance that has proved its identity.

    `claimed` is what the ledger knows of the attempt that the instance says it has. It is not
    proved, so it only tells an instance whose attempt was given to others that it may end.
    """
    if known.node is None:
        return _without_node(known.instance_id, claimed)
    node, run, attempt = known.node, known.run, known.attempt
    if run is None or attempt is None:
        return _over(f"the ledger has no attempt {node.attempt} of {node.run_id}")
    if purpose is Purpose.TRAINER:
        if reason := _end_of(run, attempt):
            return _over(reason)
        if not run.request.wants_credentials:
            return Denial(
                status="refused",
                reason="credentials: the request of the run does not want any; start it with "
                "--credentials run",
            )
        return Grant(node=node, run=run, reach=Reach.TRAINER, instance_id=known.instance_id)
    if known.warm is not None and known.warm.is_idle and _end_of(run, attempt):
        return Grant(node=node, run=run, reach=Reach.WARM, instance_id=known.instance_id)
    if run.fence > node.attempt:
        return _over(_end_of(run, attempt))
    # A gang goes on with its machines: they look for the next attempt in the ledger of the run.
    stays = run.ended is None and len(attempt.nodes) > 1
    if stays or not _is_over(run, attempt, now):
        return Grant(node=node, run=run, reach=Reach.RUN, instance_id=known.instance_id)
    return _over(_end_of(run, attempt))


def _without_node(instance_id: str, claimed: Known | None) -> Denial:
    """Return whether an instance that the ledger does not know may be recorded later."""
    if claimed is None or claimed.run is None or claimed.attempt is None:
        return UNKNOWN
    attempt = claimed.attempt
    if reason := _end_of(claimed.run, attempt):
        return _over(reason)
    if attempt.was_launched and instance_id not in attempt.instance_ids:
        return _over(f"attempt {attempt.number} of {attempt.run_id} is on another instance")
    return UNKNOWN


def _end_of(run: Run, attempt: Attempt) -> str:
    """Return why an attempt cannot go on; empty if it can."""
    if run.fence > attempt.number:
        return f"attempt {run.fence} of {run.run_id} has taken over"
    if run.ended is not None:
        return f"the run {run.run_id} has ended: {run.ended.value}"
    if attempt.ended is not None:
        return f"attempt {attempt.number} of {run.run_id} has ended: {attempt.ended.kind.value}"
    return ""


def _is_over(run: Run, attempt: Attempt, now: datetime) -> bool:
    ends = [end for end in (run.ended_at, attempt.ended_at) if end is not None]
    has_ended = run.ended is not None or attempt.ended is not None
    return has_ended and not (ends and now - min(ends) < UNTIL_OVER)


def _over(reason: str) -> Denial:
    return Denial(status="over", reason=reason)
