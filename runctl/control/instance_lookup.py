"""Lookups of the nodes and runs that instances belong to."""

from collections.abc import Sequence
from dataclasses import replace

from runctl.control.ports.services import Services
from runctl.model.machine import Machine
from runctl.model.node import Node, NodeId
from runctl.model.run import Attempt, AttemptStage, Run


def find_node(services: Services, instance_id: str) -> tuple[Attempt, Node] | None:
    """Return the node on an instance with its attempt, or None for an instance that is not ours.

    The ledger knows which of the account's instances are ours. EC2 may take a machine before its
    launch is recorded, or the function that launched it may have ended in between: then only its
    tags say what it is for. They do not count once the attempt has another machine on record, or
    when they name another deployment, which may have a run of the same name.
    """
    if node_id := services.ledger.find_instance(instance_id):
        attempt = services.ledger.find_attempt(node_id.run_id, node_id.attempt)
        return (
            None if attempt is None else (attempt, _node_on_record(attempt, node_id, instance_id))
        )
    for machine in services.fleet.describe([instance_id]):
        if machine.run_id and machine.attempt is not None and not machine.is_foreign:
            attempt = services.ledger.find_attempt(machine.run_id, machine.attempt)
            if attempt is not None and attempt.stage is AttemptStage.LAUNCHING:
                return attempt, _launching_node(attempt, machine)
    return None


def was_kept(services: Services, run: Run | None, node: Node) -> bool:
    """Whether a later attempt of a gang has the machine of a node, so that it is about that one."""
    if run is None or not run.request.gang.is_gang:
        return False
    owner = services.ledger.find_instance(node.instance_id)
    return owner is not None and owner.attempt > node.attempt


def machines_by_run(services: Services, machines: Sequence[Machine]) -> dict[str, list[Machine]]:
    """Group machines by run, which a tag names or, for an existing instance, the ledger."""
    by_run: dict[str, list[Machine]] = {}
    for machine in machines:
        run_id = machine.run_id
        if not run_id and (node_id := services.ledger.find_instance(machine.instance_id)):
            run_id = node_id.run_id
        by_run.setdefault(run_id, []).append(machine)
    return by_run


def _node_on_record(attempt: Attempt, node_id: NodeId, instance_id: str) -> Node:
    known = (node for node in attempt.nodes if node.rank == node_id.rank)
    node = next(known, Node(run_id=node_id.run_id, attempt=node_id.attempt, rank=node_id.rank))
    return replace(node, instance_id=instance_id)


def _launching_node(attempt: Attempt, machine: Machine) -> Node:
    """Return the first node without an instance, on this machine: ranks are assigned later.

    The first ones of a gang are for the machines that it keeps.
    """
    waiting = (node for node in attempt.nodes[len(attempt.kept) :] if not node.instance_id)
    node = next(waiting, Node(run_id=attempt.run_id, attempt=attempt.number))
    return replace(node, instance_id=machine.instance_id, pool=str(machine.pool))
