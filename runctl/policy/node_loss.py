"""The consequences of a lost node for its attempt: a pure decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from runctl.model.machine import Machine
from runctl.model.node import Node
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt


class Loss(Enum):
    """The ways in which a node is lost."""

    ANNOUNCED = "announced"  # its machine still runs, until a deadline
    GONE = "gone"  # its machine is stopped or terminated


@dataclass(frozen=True, kw_only=True)
class Consequence:
    """The consequences of a lost node.

    `drain` are the nodes whose agents are asked to save, report and leave. `is_unreported` says
    that no agent is left which could report for the attempt.
    """

    drain: tuple[Node, ...] = ()
    is_unreported: bool = False


def on_node_loss(attempt: Attempt, nodes: Sequence[Node], lost: Node, *, loss: Loss) -> Consequence:
    """Return what follows for an attempt when a node of it is lost.

    A training that spans several nodes cannot continue without one of them, so all of them save and
    leave together. While a node is left, its agent reports; the state machine relaunches then.
    `nodes` are those of the attempt; the same loss may be reported more than once.
    """
    if attempt.ended is not None:
        return Consequence()
    others = tuple(node for node in nodes if node.is_live and node.rank != lost.rank)
    if loss is Loss.ANNOUNCED:
        return Consequence(drain=(lost, *others))
    return Consequence(drain=others, is_unreported=not others)


def outcome_of_loss(lost: Node, state: str, machine: Machine | None) -> Outcome:
    """Return the outcome of an attempt whose machines are gone, `machine` that of the last node."""
    reason = machine.reason if machine is not None else ""
    is_reclaimed = machine is not None and machine.was_reclaimed
    kind = OutcomeKind.INTERRUPTED if is_reclaimed or lost.noticed_at else OutcomeKind.LOST
    return Outcome(
        kind=kind, reason=f"{lost.instance_id} is {state}" + (f" ({reason})" if reason else "")
    )
