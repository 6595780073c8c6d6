"""Sweep: make up for events that were lost; ledger, executions and machines agree afterwards."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from runctl.control.clean_up import clean_up
from runctl.control.ports import Services
from runctl.model.identity import RUN_TAG
from runctl.model.machine import Machine
from runctl.policy.sweeping import is_abandoned, is_left_over

logger = logging.getLogger(__name__)


def sweep(services: Services) -> dict[str, Any]:
    """Clean up after executions that ended unseen, and end machines that nobody wants.

    Safe to repeat and beside everything else. One run that cannot be looked after, for whatever
    reason, is told of and does not keep the others from it.
    """
    failed: list[str] = []
    unsettled = services.ledger.list_unsettled_runs()
    cleaned = [
        run_id for run_id in unsettled if _tried(failed, run_id, partial(_look, services, run_id))
    ]
    by_run: dict[str, list[Machine]] = {}
    machines = services.fleet.find_all()
    for machine in machines:
        by_run.setdefault(machine.tags[RUN_TAG], []).append(machine)
    terminated: list[str] = []
    for run_id, its_machines in by_run.items():
        ended = _tried(failed, run_id, partial(_end_left_over, services, run_id, its_machines))
        terminated += ended or []
    return {
        "runs": len(unsettled),
        "machines": len(machines),
        "cleaned": cleaned,
        "terminated": terminated,
        "failed": sorted(set(failed)),
    }


def _look(services: Services, run_id: str) -> bool:
    """Clean up after the run's execution if that ended without anybody hearing of it.

    Or if whoever heard of it did not come to the end of it.
    """
    # The list came from an index, which may be behind.
    run = services.ledger.find_run(run_id)
    if run is None or run.is_settled:
        return False
    status = services.workflow.status_of(run.execution_arn)
    if not is_abandoned(run, status, now=services.clock.now()):
        return False
    clean_up(
        services,
        execution_arn=run.execution_arn,
        name=run.execution,
        status=status or "UNKNOWN",
        cause="" if status else "the execution ended unseen",
    )
    return True


def _end_left_over(services: Services, run_id: str, machines: list[Machine]) -> list[str]:
    run = services.ledger.find_run(run_id)
    attempts = services.ledger.attempts(run_id)
    now = services.clock.now()
    doomed = [
        machine.instance_id for machine in machines if is_left_over(machine, run, attempts, now=now)
    ]
    if doomed:
        services.fleet.terminate(doomed)
    return doomed


def _tried(failed: list[str], run_id: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception:
        logger.exception("the run %s could not be swept", run_id)
        failed.append(run_id)
        return None
