"""The consequences of EC2's status checks for an attempt: a pure decision."""

from datetime import datetime, timedelta
from enum import Enum

from runctl.model.machine import MachineStatus
from runctl.model.node import Node
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.maintenance import is_near

# Six heartbeats of an agent.
SILENT_FOR = timedelta(minutes=2)
# A check runs every minute, and one that fails for a few minutes may recover.
IMPAIRED_FOR = timedelta(minutes=5)


class Treatment(Enum):
    """The treatments of an attempt."""

    NOTHING = "nothing"
    SAVE = "save"  # ask for a checkpoint, and let it continue
    REPLACE = "replace"  # treat it as lost and continue on another instance


def judge(status: MachineStatus, attempt: Attempt, *, now: datetime) -> Treatment:
    """Return the treatment of an attempt, given the status of the instance of one of its nodes.

    An attempt counts as lost only when two facts agree: a check has failed for some minutes, and
    the node's agent is silent. A node that still sends heartbeats continues to train, whatever EC2
    says of its machine; it is asked to save, and so is a node whose instance is due for
    maintenance. A node that has a notice is left alone: it drains, and ending its instance could
    cost what EC2 gives for free.
    """
    node = attempt.node_of(status.instance_id)
    if attempt.ended is not None or node is None or node.noticed_at is not None:
        return Treatment.NOTHING
    if status.impaired and _is_silent(attempt, node, now=now):
        since = [at for at in status.impaired.values() if at is not None]
        if since and now - min(since) >= IMPAIRED_FOR:
            return Treatment.REPLACE
        return Treatment.NOTHING
    if status.impaired or any(is_near(event, now=now) for event in status.events):
        return Treatment.SAVE
    return Treatment.NOTHING


def _is_silent(attempt: Attempt, node: Node, *, now: datetime) -> bool:
    """Return whether the heartbeats of a node's agent are overdue.

    An agent that has no token yet only waits, and nothing is lost with it.
    """
    if attempt.stage is not AttemptStage.RUNNING:
        return False
    heard = [at for at in (node.heartbeat_at, attempt.running_at) if at is not None]
    return bool(heard) and now - max(heard) >= SILENT_FOR


def describe(status: MachineStatus) -> str:
    """Describe which checks fail, and since when."""
    return " and ".join(
        f"EC2's {check} status check of {status.instance_id} fails"
        + ("" if since is None else f" since {since:%Y-%m-%d %H:%M} UTC")
        for check, since in sorted(status.impaired.items())
    )
