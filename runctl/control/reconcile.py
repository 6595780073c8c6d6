"""Reconcile: makes up for lost events, so that ledger, executions and machines agree."""

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from runctl.control.check_machines import check_machines
from runctl.control.clean_up import clean_up
from runctl.control.end_lendings import end_expired_lendings
from runctl.control.ending_groups import end_abandoned_group
from runctl.control.instance_lookup import machines_by_run
from runctl.control.ports.services import Services
from runctl.control.results import ReconcileResult
from runctl.model.leftovers import InstantFleet
from runctl.model.machine import Machine
from runctl.model.run import Run
from runctl.policy.image_retention import unused_images
from runctl.policy.reconciling import is_abandoned, is_left_over, is_spent
from runctl.policy.warm import overdue_since

logger = logging.getLogger(__name__)

FLEETS = "fleets"
GROUPS = "groups"
CHECKS = "status checks"
IMAGES = "images"
LENDINGS = "lendings"


def reconcile(services: Services) -> ReconcileResult:
    """Clean up after executions that ended unnoticed, end unwanted machines, delete spent fleets.

    The status checks of live attempts' machines are examined, too, images of builds that nothing
    has used for long are deleted, and the tags of existing machines that are no longer lent.

    Safe to repeat, and to run concurrently with everything else. A run that cannot be reconciled,
    for whatever reason, is returned under `failed` and does not keep the others from it; the same
    holds for the fleets.
    """
    failed: list[str] = []
    unsettled = services.ledger.list_unsettled_runs()
    cleaned = [
        run_id
        for run_id in unsettled
        if _try(failed, run_id, partial(end_abandoned, services, run_id))
    ]
    for run_id in unsettled:
        _try(failed, run_id, partial(services.ledger.refresh_summary, run_id))
    cleaned += [
        group_id
        for group_id in _try(failed, GROUPS, services.groups.list_unsettled_groups) or ()
        if _try(failed, group_id, partial(end_abandoned_group, services, group_id))
    ]
    checked = _try(
        failed, CHECKS, lambda: check_machines(services, unsettled, partial(_try, failed))
    )
    machines = services.fleet.find_all()
    terminated: list[str] = []
    for run_id, its_machines in machines_by_run(services, machines).items():
        ended = _try(failed, run_id, partial(_end_left_over, services, run_id, its_machines))
        terminated += ended or []
    # A machine that was terminated just now keeps its fleet until it is found gone.
    deleted = _try(failed, FLEETS, partial(_delete_spent, services, failed)) or []
    no_longer_lent = _try(
        failed, LENDINGS, lambda: end_expired_lendings(services, partial(_try, failed))
    )
    images = _try(failed, IMAGES, partial(_delete_unused, services, failed, unsettled)) or ()
    return ReconcileResult(
        runs=len(unsettled),
        machines=len(machines),
        cleaned=tuple(cleaned),
        replaced=checked.replaced if checked else None,
        asked_to_save=checked.asked_to_save if checked else None,
        terminated=tuple(terminated),
        fleets_deleted=tuple(deleted),
        images_deleted=tuple(images) or None,
        no_longer_lent=tuple(no_longer_lent or ()) or None,
        failed=tuple(sorted(set(failed))),
    )


def left_over_machines(
    services: Services, run_id: str, machines: Iterable[Machine]
) -> list[Machine]:
    """Return the machines of a run that are not wanted any more and may be terminated."""
    run = services.ledger.find_run(run_id) if run_id else None
    attempts = services.ledger.attempts(run_id) if run_id else []
    now = services.clock.now()
    if run is not None and run.request.group:
        group_id = run.request.group
        return [each for each in machines if _is_left_over_of_group(services, group_id, run, each)]
    return [machine for machine in machines if is_left_over(machine, run, attempts, now=now)]


def _is_left_over_of_group(services: Services, group_id: str, run: Run, machine: Machine) -> bool:
    """Decide by what a machine does now: its tags name only the first run that it had."""
    owner = services.ledger.find_instance(machine.instance_id)
    if owner is not None and owner.run_id != run.run_id:
        run = services.ledger.find_run(owner.run_id) or run
    return is_left_over(
        machine,
        run,
        services.ledger.attempts(run.run_id),
        now=services.clock.now(),
        waits_until=_waits_until(services, group_id, machine.instance_id),
    )


def _waits_until(services: Services, group_id: str, instance_id: str) -> datetime | None:
    """Return until when a warm instance waits: until its time is up, or its group has ended."""
    warm = services.groups.find_warm(group_id, instance_id)
    until = None if warm is None else overdue_since(warm)
    if until is None:
        return None
    group = services.groups.find_group(group_id)
    ended_at = None if group is None else group.ended_at
    return until if ended_at is None else min(until, ended_at)


def spent_fleets(services: Services) -> list[InstantFleet]:
    """Return the fleets that hold nothing any more."""
    found = [fleet for fleet in services.fleet.find_fleets() if not fleet.is_deleted]
    ids = [instance_id for fleet in found for instance_id in fleet.instance_ids]
    states = {machine.instance_id: machine.state for machine in services.fleet.describe(ids)}
    now = services.clock.now()
    # The ledger costs a query for each run, so only for fleets that are spent without it.
    likely = [fleet for fleet in found if is_spent(fleet, states, (), now=now)]
    runs = {fleet.run_id for fleet in likely if set(fleet.instance_ids) - set(states)}
    attempts = {run_id: services.ledger.attempts(run_id) for run_id in runs}
    return [
        fleet
        for fleet in likely
        if is_spent(fleet, states, attempts.get(fleet.run_id, ()), now=now)
    ]


def find_abandoned(services: Services, run_id: str) -> tuple[Run, str] | None:
    """Return the run and its execution's status if nothing else will clean up after it.

    Its execution ended unnoticed, or the clean-up that followed did not finish.
    """
    # The list is from an index, which may be behind.
    run = services.ledger.find_run(run_id)
    if run is None or run.is_settled:
        return None
    status = services.workflow.status_of(run.execution_arn)
    return (run, status) if is_abandoned(run, status, now=services.clock.now()) else None


def end_abandoned(services: Services, run_id: str) -> bool:
    """Clean up after the run's execution if nothing else will; return whether it did."""
    abandoned = find_abandoned(services, run_id)
    if abandoned is None:
        return False
    run, status = abandoned
    clean_up(
        services,
        execution_arn=run.execution_arn,
        name=run.execution,
        status=status or "UNKNOWN",
        cause="" if status else "the execution ended unnoticed",
    )
    return True


def _end_left_over(services: Services, run_id: str, machines: list[Machine]) -> list[str]:
    to_terminate = [
        machine.instance_id for machine in left_over_machines(services, run_id, machines)
    ]
    if to_terminate:
        services.fleet.terminate(to_terminate)
    return to_terminate


def _delete_spent(services: Services, failed: list[str]) -> list[str]:
    spent = [fleet.fleet_id for fleet in spent_fleets(services)]
    refused = services.fleet.delete_fleets(spent) if spent else {}
    for fleet_id, reason in refused.items():
        logger.warning("the fleet %s could not be deleted: %s", fleet_id, reason)
    if refused:
        failed.append(FLEETS)
    return [fleet_id for fleet_id in spent if fleet_id not in refused]


def _delete_unused(
    services: Services, failed: list[str], unsettled: Sequence[str]
) -> tuple[str, ...]:
    """Delete images of builds that no unsettled run has recorded and nobody uses; return them.

    The runs are read after the images: a run that records one meanwhile has just pushed it, or
    found it in use.
    """
    stored, now = services.images.stored(), services.clock.now()
    if not unused_images(stored, now=now):
        return ()
    runs = map(services.ledger.find_run, unsettled)
    recorded = {run.image.digest for run in runs if run is not None and run.image is not None}
    to_delete = unused_images(stored, recorded=recorded, now=now)
    refused = services.images.delete(to_delete) if to_delete else []
    for reason in refused:
        logger.warning("an image could not be deleted: %s", reason)
    if refused:
        failed.append(IMAGES)
    return to_delete


def _try(failed: list[str], what: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception:
        logger.exception("%s could not be reconciled", what)
        failed.append(what)
        return None
