"""Instances that go from one run of a group to the next: who keeps them, and who claims them."""

from collections.abc import Mapping, Sequence

from runctl.control.ports.services import Services
from runctl.model.group import WarmInstance, WarmStage
from runctl.model.node import Node, NodeId
from runctl.model.pool import MachineKind, machine_kind
from runctl.model.root_volume import RootVolume
from runctl.model.run import Attempt, AttemptStage, Run, Warm
from runctl.policy.disk_size import plan_volumes
from runctl.policy.launch_plan import Observation
from runctl.policy.warm import fits, in_order, is_claimable, may_follow, may_wait


def keep_warm(services: Services, run: Run) -> list[str]:
    """Let the instances that a run has left wait for another run of its group; return their ids.

    Called once the run has ended, and before anything else of it is ended. An instance that its
    agent has not offered is not kept: that agent does not wait.
    """
    group_id = run.request.group
    if not group_id:
        return []
    group = services.groups.find_group(group_id)
    kept = []
    for node in _last_nodes(services.ledger.attempts(run.run_id)):
        warm = services.groups.find_warm(group_id, node.instance_id)
        if warm is None or warm.node != node.node_id or not warm.is_idle:
            continue
        if group is None or not group.keeps_instances:
            services.groups.leave_warm(
                group_id, warm.instance_id, node=warm.node, now=services.clock.now()
            )
        elif services.groups.keep_warm(
            group_id,
            warm.instance_id,
            node=warm.node,
            pool=node.pool,
            keep_seconds=group.keep_seconds,
            now=services.clock.now(),
        ):
            kept.append(warm.instance_id)
    return kept


def _last_nodes(attempts: Sequence[Attempt]) -> list[Node]:
    """Return the nodes of a run's attempts whose instances may wait."""
    return [
        node
        for attempt in attempts
        for node in attempt.nodes
        if node.instance_id and node.noticed_at is None and may_wait(attempt.ended)
    ]


def claim_warm(
    services: Services, observed: Observation, attempt: Attempt | None, number: int
) -> Attempt | None:
    """Give attempt `number` a warm instance of the run's group, if one fits.

    Returns the attempt as the ledger holds it, or what was given if nothing was tried: an attempt
    that is still launching has got none. `attempt` is what is known of it, None for nothing. The
    claim and the attempt's launch are one transaction: after a lost answer the attempt is launched,
    or nothing has happened.
    """
    run = observed.run
    group = services.groups.find_group(run.request.group) if run.request.group else None
    if group is None or not group.keeps_instances:
        return attempt
    for warm in _suitable(services, observed, group.group_id):
        # Read for each claim: agents write the item of the offer, but not this one. The claim
        # fails if the offer names another node than the instance's own item.
        before = services.ledger.find_run(warm.node.run_id)
        if before is None or not may_follow(run.request, before.request):
            continue
        launch_try = 1 if attempt is None else attempt.launch_try + 1
        attempt = services.ledger.open_attempt(
            run.run_id,
            number,
            launch_try=launch_try,
            source=Warm(warm.instance_id),
            now=services.clock.now(),
        )
        if attempt.stage is AttemptStage.LAUNCHING:
            attempt = services.groups.claim_warm(warm, run.run_id, number, now=services.clock.now())
        if attempt.stage is not AttemptStage.LAUNCHING:
            return attempt
    return attempt


def _suitable(services: Services, observed: Observation, group_id: str) -> list[WarmInstance]:
    """Return the instances that a run may claim and that EC2 shows as running."""
    now = services.clock.now()
    waiting = [warm for warm in services.groups.list_warm(group_id) if is_claimable(warm, now=now)]
    if not waiting:
        return []
    volumes = _volumes(observed)
    fitting = [warm for warm in waiting if fits(warm, observed.candidates, volumes)]
    machines = services.fleet.describe([warm.instance_id for warm in fitting]) if fitting else []
    running = {machine.instance_id for machine in machines if machine.state == "running"}
    return in_order([warm for warm in fitting if warm.instance_id in running], observed.run.run_id)


def _volumes(observed: Observation) -> dict[MachineKind, RootVolume]:
    """Return the root volume that a machine of each kind would get."""
    templates = observed.root_volumes
    kinds = {machine_kind(pool.instance_type) for pool in observed.candidates}
    planned = plan_volumes(observed.run, observed.attempts, templates, kinds)
    return {kind: planned.volumes.get(kind, templates[kind]) for kind in kinds & templates.keys()}


def release(services: Services, run: Run | None, node: NodeId, instance_id: str) -> bool:
    """Let an instance that ends be claimed no more; return whether a claim was faster.

    `node` was its last one when its end became known, and has ended. After a claim the instance
    belongs to another node, which the caller has to look up.
    """
    if run is None or not run.request.group:
        return False
    held = services.groups.leave_warm(
        run.request.group, instance_id, node=node, now=services.clock.now()
    )
    return held is not None and held.stage is WarmStage.CLAIMED and held.node != node


def holder_of(
    services: Services,
    run: Run,
    attempts: Mapping[int, Attempt],
    found: Attempt,
    instance_id: str,
) -> Attempt | None:
    """Return which of `attempts` of a run of a group has a machine now; None if it is another's.

    `found` is the attempt that its tags or the ledger name. A machine keeps the tags of the run
    that it was launched for, and may have gone on to another one since, or wait for it.
    """
    owner = services.ledger.find_instance(instance_id)
    if owner is None:
        return found  # never recorded: nothing but its tags says what it is for
    attempt = attempts.get(owner.attempt) if owner.run_id == run.run_id else None
    if attempt is None:
        return None
    warm = services.groups.find_warm(run.request.group, instance_id)
    may_be_claimed = warm is not None and (
        warm.stage is WarmStage.WAITING
        or (warm.stage is WarmStage.OFFERED and may_wait(attempt.ended))
    )
    return None if may_be_claimed else attempt
