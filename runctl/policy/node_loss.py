"""The consequences of a lost node for its attempt: a pure decision."""

from dataclasses import dataclass
from enum import Enum

from runctl.model.machine import Machine
from runctl.model.node import Node
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage


class Loss(Enum):
    """The ways in which a node is lost."""

    ANNOUNCED = "announced"  # its machine still runs, until a deadline
    GONE = "gone"  # its machine is stopped or terminated


@dataclass(frozen=True, kw_only=True)
class Consequence:
    """The consequences of a lost node.

    `drain` are the nodes whose agents are asked to save and report. `ends` says that the attempt
    cannot go on without the node, and `is_unreported` that no agent can report that.
    """

    drain: tuple[Node, ...] = ()
    ends: bool = False
    is_unreported: bool = False


def on_node_loss(
    attempt: Attempt, lost: Node, *, loss: Loss, is_spare: bool = False
) -> Consequence:
    """Return what follows for an attempt when a node of it is lost.

    A training that spans several nodes cannot continue without one of them. After a notice all of
    them save together, since the lost one still runs. When it is gone the others cannot save: their
    agents see it in the ledger, and the lead reports. Before the attempt has its token there is
    nothing to save, and no agent can report; while it is launched, nothing is known of the others,
    and its launch ends it once they are on record. A spare does not train, so nothing follows for
    the others. The same loss may be reported more than once.
    """
    if attempt.ended is not None:
        return Consequence()
    others = tuple(node for node in attempt.nodes if node.is_live and node.rank != lost.rank)
    is_gang = len(attempt.nodes) > 1
    is_launching = is_gang and attempt.stage is AttemptStage.LAUNCHING
    if is_launching or (is_spare and others):
        return Consequence(drain=(lost,) if loss is Loss.ANNOUNCED else ())
    is_unreported = is_gang and not attempt.has_token
    if loss is Loss.ANNOUNCED:
        drain = (lost,) if is_unreported else (lost, *others)
        return Consequence(drain=drain, ends=True, is_unreported=is_unreported)
    return Consequence(ends=True, is_unreported=is_unreported or not others)


def outcome_of_loss(lost: Node, state: str, machine: Machine | None) -> Outcome:
    """Return the outcome of an attempt whose machines are gone, `machine` that of the last node."""
    reason = machine.reason if machine is not None else ""
    is_reclaimed = machine is not None and machine.was_reclaimed
    kind = OutcomeKind.INTERRUPTED if is_reclaimed or lost.noticed_at else OutcomeKind.LOST
    return Outcome(
        kind=kind, reason=f"{lost.instance_id} is {state}" + (f" ({reason})" if reason else "")
    )
