"""Status checks: the part of reconciliation that examines the instances of live attempts."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from runctl.control.ending import report_unheard
from runctl.control.ports.services import Services
from runctl.control.results import MachineChecks
from runctl.model.machine import MachineStatus
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt
from runctl.policy.gang import is_spare, saving_instance
from runctl.policy.health import Treatment, describe, judge

Guard = Callable[[str, Callable[[], Any]], Any]


def check_machines(services: Services, run_ids: Iterable[str], guard: Guard) -> MachineChecks:
    """Replace attempts whose instances have failed; ask those at risk for a checkpoint.

    Returns the instances, by what was done. EC2 is only asked when an attempt is live. `guard`
    makes the call for one run, so that a run which fails does not keep the others from it.
    """
    live: dict[str, Attempt] = {}
    for run_id in run_ids:
        live |= guard(run_id, partial(_live_machines, services, run_id)) or {}
    statuses = services.fleet.statuses(sorted(live)) if live else []
    replaced: list[str] = []
    asked_to_save: list[str] = []
    for status in statuses:
        attempt = live[status.instance_id]
        treated = guard(attempt.run_id, partial(_treat, services, attempt, status))
        if treated is Treatment.REPLACE:
            replaced.append(status.instance_id)
        elif treated is Treatment.SAVE:
            asked_to_save.append(status.instance_id)
    return MachineChecks(replaced=tuple(replaced), asked_to_save=tuple(asked_to_save))


def _live_machines(services: Services, run_id: str) -> dict[str, Attempt]:
    """Return the machines of a run that are not spares, each with the last attempt that has it."""
    run = services.ledger.find_run(run_id)
    if run is None or run.ended is not None:
        return {}
    return {
        node.instance_id: attempt
        for attempt in services.ledger.attempts(run_id)
        if attempt.ended is None and attempt.was_launched and attempt.number >= run.fence
        for node in attempt.nodes
        if node.instance_id and not is_spare(run, node)
    }


def _treat(services: Services, attempt: Attempt, status: MachineStatus) -> Treatment:
    treatment = judge(status, attempt, now=services.clock.now())
    if treatment is Treatment.REPLACE:
        # Time has passed with the other attempts: its agent may have sent a heartbeat since.
        attempt = services.ledger.find_attempt(attempt.run_id, attempt.number) or attempt
        treatment = judge(status, attempt, now=services.clock.now())
    if treatment is Treatment.REPLACE:
        report_unheard(services, attempt, _lost(attempt, status))
    elif treatment is Treatment.SAVE:
        instance_id = saving_instance(attempt, status.instance_id)
        services.commands.send(instance_id, "checkpoint")
    return treatment


def _lost(attempt: Attempt, status: MachineStatus) -> Outcome:
    """Return the outcome of an attempt that lost one of its machines; a gang keeps the others."""
    node = attempt.node_of(status.instance_id)
    is_gang = len(attempt.nodes) > 1
    return Outcome(
        kind=OutcomeKind.LOST,
        reason=f"{describe(status)}, and its agent is silent",
        lost_ranks=(node.rank,) if node is not None and is_gang else (),
    )
