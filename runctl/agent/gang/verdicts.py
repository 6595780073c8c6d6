"""The consequences of a verdict on a gang for the agent of one of its nodes."""

import time
from collections.abc import Sequence
from datetime import datetime, timezone

from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.watcher import ASSUMED_NOTICE
from runctl.policy.gang_facts import Completed, NodeFacts, Noticed, Straggler, Verdict

# Ranks that wait for one that will never answer cannot save; their handlers do not even run.
GRACE = 5.0


def is_worse(found: Verdict | None, known: Verdict | None) -> bool:
    """Whether a verdict replaces the one so far: a silent node may come back, its gang does not.

    While all save together because a node leaves, more can go wrong, or all may complete.
    """
    if found is None:
        return False
    if known is None:
        return True
    is_mild = isinstance(known, Noticed | Straggler)
    return is_mild and not isinstance(found, Noticed | Straggler)


def act_on(verdict: Verdict, nodes: Sequence[NodeFacts], mailbox: Mailbox) -> None:
    """Request the stop that follows from a verdict, if any."""
    if isinstance(verdict, Completed):
        return
    now = datetime.now(timezone.utc)
    own = next((facts for facts in nodes if facts.is_own), None)
    noticed_at = None if own is None else own.node.noticed_at
    if noticed_at is not None and mailbox.noticed_at is None:
        # The notice has reached the ledger, and not this machine.
        mailbox.end(
            StopRequest(
                cause=StopCause.NOTICE,
                reason="EC2 takes the instance (ledger)",
                detected=now,
                deadline=noticed_at + ASSUMED_NOTICE,
            )
        )
    can_save = isinstance(verdict, Noticed | Straggler)
    mailbox.end(
        StopRequest(
            cause=StopCause.PEER,
            reason=verdict.reason,
            detected=now,
            lost_ranks=() if isinstance(verdict, Noticed) else verdict.ranks,
            kill_at=None if can_save else time.monotonic() + GRACE,
        )
    )
