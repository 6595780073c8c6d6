"""The first attempt of a run on an existing instance."""

from datetime import timedelta

from runctl.control.ports.services import Services
from runctl.model.errors import RefusedError, TransientError
from runctl.model.lending import problem_with_lending
from runctl.model.machine import Machine
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage, Existing, Run

# What the owner has to check when a machine cannot receive commands; the guide says how.
NOT_REGISTERED = (
    "its SSM agent is not registered: check that the machine runs, has the SSM agent, reaches SSM "
    "over the network, and has an instance profile whose role permits it to register"
)
# A tag that was written just before the run was started may not be visible yet.
TAGGED_WITHIN = timedelta(seconds=20)


def use_existing_instance(
    services: Services, run: Run, number: int
) -> tuple[Attempt, Outcome | None]:
    """Give attempt `number` the machine that the request names; return the failure, if any, too.

    May be repeated at any point: the attempt is on record before the agent is started, and starting
    it twice does nothing. The machine must be lent to the deployment at each start; once the agent
    has reported, the attempt may outlast that. Raises TransientError while EC2 or SSM does not know
    the machine, which may be too new.
    """
    instance_id = run.request.resources.instance_id
    attempt = services.ledger.open_attempt(
        run.run_id,
        number,
        launch_try=1,
        source=Existing(instance_id),
        now=services.clock.now(),
    )
    if attempt.ended is not None or attempt.heartbeat_at is not None:
        return attempt, attempt.ended
    machine = _find(services, instance_id)
    is_new = attempt.stage is AttemptStage.LAUNCHING
    problem = (problem_with(machine) if is_new else "") or _problem_with_lending(
        services, run, machine
    )
    if problem:
        return attempt, _failed(f"{instance_id} {problem}")
    if is_new:
        attempt = _assign(services, attempt, machine)
        if attempt.stage is AttemptStage.LAUNCHING:
            return attempt, _failed(_describe_owner(services, instance_id))
    try:
        reached = services.commands.start(instance_id, run_id=run.run_id, attempt=number)
    except RefusedError as exc:
        return attempt, _failed(f"{instance_id} {exc}")
    if not reached:
        raise TransientError(f"{instance_id} cannot receive commands: {NOT_REGISTERED}")
    return attempt, attempt.ended


def problem_with(machine: Machine) -> str:
    """Return why a run cannot begin on a machine, with the remedy; empty if it can."""
    if machine.is_foreign:
        return "was launched by another deployment of this account; use it from there"
    if machine.run_id:
        return (
            f"was launched for the run {machine.run_id} and ends with it; "
            "use `runctl aws create` for a machine that is kept"
        )
    if machine.state == "stopped":
        return "is stopped; start it, and try again"
    if machine.state not in {"pending", "running"}:
        return f"is {machine.state}; name one that runs"
    return ""


def _problem_with_lending(services: Services, run: Run, machine: Machine) -> str:
    now = services.clock.now()
    problem = problem_with_lending(machine, deployment=services.fleet.deployment, now=now)
    if problem and now - run.started_at < TAGGED_WITHIN:
        raise TransientError(f"{machine.instance_id} {problem}")
    return problem


def _find(services: Services, instance_id: str) -> Machine:
    found = services.fleet.describe([instance_id])
    if not found:
        # DescribeInstances is eventually consistent; the caller limits the retries.
        raise TransientError(
            f"EC2 does not know {instance_id} in this account and region; if it was launched just "
            "now, try again in a minute"
        )
    return found[0]


def _assign(services: Services, attempt: Attempt, machine: Machine) -> Attempt:
    instead_of = services.ledger.find_instance(machine.instance_id)
    if instead_of is not None and not has_ended(services, instead_of):
        instead_of = None
    return services.ledger.record_existing_instance(
        attempt.run_id,
        attempt.number,
        instance_id=machine.instance_id,
        pool=str(machine.pool),
        instead_of=instead_of,
        now=services.clock.now(),
    )


def has_ended(services: Services, node: NodeId) -> bool:
    """Whether the attempt of a node, or its run, has ended or is unknown."""
    run = services.ledger.find_run(node.run_id)
    attempt = services.ledger.find_attempt(node.run_id, node.attempt)
    return run is None or run.ended is not None or attempt is None or attempt.ended is not None


def _describe_owner(services: Services, instance_id: str) -> str:
    owner = services.ledger.find_instance(instance_id)
    if owner is None:
        return f"{instance_id} could not be assigned to the run; try again"
    return (
        f"{instance_id} runs attempt {owner.attempt} of {owner.run_id}; wait for its end, stop the "
        f"run with `runctl stop {owner.run_id}`, or name another instance"
    )


def _failed(reason: str) -> Outcome:
    return Outcome(kind=OutcomeKind.FAILED, reason=reason)
