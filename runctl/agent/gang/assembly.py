"""The assembly of what makes an instance a node of a gang."""

from runctl.agent.gang.member import GangMember
from runctl.agent.gang.pulses import Pulses
from runctl.agent.gang.rendezvous import Rendezvous
from runctl.agent.gang.watch import GangWatch
from runctl.agent.instance.settings import Settings
from runctl.agent.reporting.progress import Progress
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.waiting import CancellableWait
from runctl.model.agent_ledger import AgentLedger
from runctl.model.node import NodeProgress


def join_gang(
    settings: Settings,
    ledger: AgentLedger,
    *,
    mailbox: Mailbox,
    progress: Progress,
    wait: CancellableWait,
    earlier: NodeProgress,
) -> GangMember | None:
    """Return the member of a gang that this node is, None for the only node of its attempt.

    `earlier` is what an earlier agent has reported of it.
    """
    if not settings.is_gang:
        return None
    pulses = Pulses(settings.paths.pulses)
    watch = GangWatch(ledger, settings, mailbox=mailbox, progress=progress, pulses=pulses)
    return GangMember(
        watch,
        Rendezvous(settings, watch, progress=progress, wait=wait),
        pulses,
        rank=settings.rank,
        mailbox=mailbox,
        progress=progress,
        earlier=earlier,
    )
