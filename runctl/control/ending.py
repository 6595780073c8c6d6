"""The end of attempts and of what a run leaves: reports, open attempts and machines."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta

from runctl.control.ports.services import Services
from runctl.control.results import ReportStatus, TrainReport
from runctl.control.warm_instances import holder_of
from runctl.model.machine import Machine
from runctl.model.node import Node
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.billing import may_terminate
from runctl.policy.gang import holders_of, is_of_gang, share_losses

# These agents have reported: they shut their machines down, or EC2 is taking them.
LEAVE_BY_THEMSELVES = frozenset(
    {OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.INTERRUPTED}
)
# EC2 is eventually consistent: for a while it may not know what it has launched.
TOO_NEW = timedelta(minutes=10)


def report_unheard(services: Services, attempt: Attempt, outcome: Outcome) -> ReportStatus:
    """Report for an attempt whose agents cannot report any more; return the result.

    An agent's own report used the token up, so ours is refused and nothing is recorded here. Only
    an attempt without a token, on which nothing can be reported, is ended in the ledger; then
    LaunchInstances or Train finds that it has ended.
    """
    if not attempt.has_token:
        attempt = services.ledger.end_attempt(
            attempt.run_id, attempt.number, outcome=outcome, now=services.clock.now()
        )
        # Train may have stored its token between our read and our write: then it has not seen the
        # end, and only we can report it.
        if not attempt.has_token:
            return ReportStatus.ENDED
    report = TrainReport(outcome=outcome).as_document()
    token = services.ledger.find_token(attempt.run_id, attempt.number)
    is_accepted = token is not None and services.workflow.report(token, report)
    return ReportStatus.REPORTED if is_accepted else ReportStatus.ALREADY_REPORTED


def end_open_attempts(
    services: Services,
    run_id: str,
    *,
    reason: str,
    unlaunched: OutcomeKind = OutcomeKind.STOPPED,
) -> list[int]:
    """End every attempt in the ledger that has not ended; return their numbers.

    Their outcome is `stopped`, or `unlaunched` for those that never had a machine. Machines are
    ended later: an attempt that is closed first cannot be given a token meanwhile.
    """
    still_open = [
        attempt
        for attempt in services.ledger.attempts(run_id)
        if attempt.stage is not AttemptStage.ENDED
    ]
    for attempt in still_open:
        kind = OutcomeKind.STOPPED if attempt.was_launched else unlaunched
        services.ledger.end_attempt(
            run_id,
            attempt.number,
            outcome=Outcome(kind=kind, reason=reason),
            now=services.clock.now(),
        )
    return [attempt.number for attempt in still_open]


def end_leftovers(services: Services, run_id: str) -> list[str]:
    """Terminate the machines of a run that nothing else ends; return their ids."""
    attempts = services.ledger.attempts(run_id)
    return end_machines(
        services,
        attempts,
        where=lambda holder, machine: _is_left_over(at_work(attempts, holder, machine), machine),
    )


def end_released(
    services: Services, attempts: Sequence[Attempt], *, kept: Collection[str] = ()
) -> list[str]:
    """Terminate the machines of ended attempts of a gang that no attempt keeps; return their ids.

    `kept` are those that the next one may keep. A machine with a notice is left to EC2.
    """

    def is_released(attempt: Attempt, machine: Machine) -> bool:
        is_noticed = attempt.noticed_at_on(machine.instance_id) is not None
        return is_stray(attempt, machine) or not (is_noticed or machine.instance_id in kept)

    ended = [attempt for attempt in attempts if attempt.ended is not None]
    return end_machines(services, ended, where=is_released)


def terminate_orphans(services: Services, attempt: Attempt) -> list[str]:
    """Terminate what was launched for an attempt but is not on its record; return the ids.

    The function that launched it may have ended between the launch and the record.
    """
    return end_machines(services, [attempt], where=is_stray)


def end_machines(
    services: Services,
    attempts: Sequence[Attempt],
    *,
    where: Callable[[Attempt, Machine], bool] = lambda _attempt, _machine: True,
) -> list[str]:
    """Terminate the live machines of `attempts` that may be terminated; return their ids.

    An existing instance belongs to its owner: the agent on it leaves by itself.
    """
    to_terminate = [
        machine.instance_id
        for attempt, machine in live_machines(services, attempts)
        if where(attempt, machine)
        and may_end(services, attempt, machine)
        and not attempt.is_on_existing_instance
    ]
    if to_terminate:
        services.fleet.terminate(to_terminate)
    return to_terminate


def may_end(services: Services, attempt: Attempt, machine: Machine) -> bool:
    """Whether the first-hour rule permits terminating an attempt's machine."""
    return may_terminate(
        launched_at=machine.launched_at,
        noticed_at=attempt.noticed_at_on(machine.instance_id),
        now=services.clock.now(),
    )


def live_machines(
    services: Services, attempts: Sequence[Attempt]
) -> Iterator[tuple[Attempt, Machine]]:
    """Yield every live machine of `attempts`, all of one run.

    Tags and ledger are joined: a machine that was never recorded has only its tags, and a machine
    that is too new for EC2's index has only its record. Of a group, a machine that has gone on to
    another run, or waits for one, is not among them; neither is one that a gang has kept for
    another attempt.
    """
    if not attempts:
        return
    found = list(_recorded_or_tagged(services, attempts))
    run = services.ledger.find_run(attempts[0].run_id) if found else None
    by_number = {attempt.number: attempt for attempt in attempts}
    holders: Mapping[str, int] = {}
    if run is not None and run.request.gang.is_gang:
        known = share_losses(services.ledger.attempts(run.run_id))
        holders = holders_of(known)
        by_number = {each.number: each for each in known if each.number in by_number}
    for attempt, machine in found:
        holder: Attempt | None = attempt
        if run is not None and run.request.group:
            holder = holder_of(services, run, by_number, attempt, machine.instance_id)
        elif holders:
            holder = by_number.get(holders.get(machine.instance_id, attempt.number))
        if holder is not None:
            yield holder, machine


def at_work(attempts: Sequence[Attempt], holder: Attempt, machine: Machine) -> Attempt:
    """Return the one of `attempts` that the agent on a machine works for, `holder` if unknown.

    What a gang has kept for its next attempt may still be ending the one before, which has the
    token.
    """
    if not holder.kept:
        return holder
    recorded = (attempt for attempt in reversed(attempts) if not is_stray(attempt, machine))
    return next((attempt for attempt in recorded if attempt.has_token), holder)


def _recorded_or_tagged(
    services: Services, attempts: Sequence[Attempt]
) -> Iterator[tuple[Attempt, Machine]]:
    by_number = {attempt.number: attempt for attempt in attempts}
    recorded = {
        node.instance_id: (attempt, node)
        for attempt in attempts
        for node in attempt.nodes
        if node.instance_id
    }
    for machine in services.fleet.find_by_run(attempts[0].run_id):
        record = recorded.pop(machine.instance_id, None)
        if machine.attempt in by_number:
            yield by_number[machine.attempt], machine
        elif record is not None:
            yield record[0], machine
    known = {machine.instance_id: machine for machine in services.fleet.describe([*recorded])}
    for instance_id, (attempt, node) in recorded.items():
        found = known.get(instance_id) or _too_new(services, attempt, node)
        if found is not None and found.is_live:
            yield attempt, found


def _too_new(services: Services, attempt: Attempt, node: Node) -> Machine | None:
    launched_at = attempt.launched_at
    if launched_at is None or services.clock.now() - launched_at > TOO_NEW:
        return None
    return Machine(
        instance_id=node.instance_id,
        state="pending",
        pool=Pool.parse(node.pool),
        launched_at=launched_at,
    )


def leaves_by_itself(attempt: Attempt, machine: Machine) -> bool:
    """Whether the agent of an ended attempt has reported, and shuts its machine down.

    What a gang keeps after a notice on another machine waits for its next attempt.
    """
    if attempt.ended is None or attempt.ended.kind not in LEAVE_BY_THEMSELVES:
        return False
    if attempt.ended.kind is not OutcomeKind.INTERRUPTED or not is_of_gang(attempt):
        return True
    return attempt.noticed_at_on(machine.instance_id) is not None


def _is_left_over(attempt: Attempt, machine: Machine) -> bool:
    if attempt.ended is None:
        return False
    if is_stray(attempt, machine):
        return True
    if leaves_by_itself(attempt, machine):
        return False
    # An agent enters `done` just before it reports, then uploads what it wrote; if its machine
    # stays, reconciliation ends it a few minutes later.
    node = attempt.node_of(machine.instance_id)
    return node is None or node.progress.phase != "done"


def is_stray(attempt: Attempt, machine: Machine) -> bool:
    """Whether a machine was launched for an attempt but is not on its record."""
    return machine.instance_id not in attempt.instance_ids
