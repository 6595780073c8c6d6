"""The end of a group: its members, its warm instances, and the message about it."""

import logging
from dataclasses import dataclass

from runctl.control.ports.services import Services
from runctl.model.errors import RunEndedError
from runctl.model.group import Group
from runctl.model.outcome import RunStatus
from runctl.policy.reconciling import is_abandoned

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EndedGroup:
    """What the end of a group ended: executions of members, and instances that waited."""

    group: Group
    stopped: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def end_group(
    services: Services,
    group_id: str,
    *,
    status: RunStatus,
    reason: str,
    execution_arn: str | None = None,
) -> EndedGroup:
    """End the group, then what is left of it; this may be repeated.

    The end comes first: it keeps instances from waiting for a further run. Raises RunEndedError if
    another execution than `execution_arn` has the group.
    """
    group = services.groups.end_group(
        group_id,
        status=status,
        reason=reason,
        now=services.clock.now(),
        execution_arn=execution_arn,
    )
    if execution_arn not in {None, group.execution_arn}:
        raise RunEndedError(f"{group_id} belongs to the execution {group.execution}")
    if group.is_settled:
        return EndedGroup(group=group)
    stopped = _stop_members(services, group)
    left = dismiss_idle(services, group_id)
    _notify(services, group)
    return EndedGroup(group=group, stopped=stopped, left=left)


def dismiss_idle(services: Services, group_id: str) -> tuple[str, ...]:
    """Let the idle instances of a group end; return their ids.

    Each agent sees it within seconds and shuts its machine down, after it has uploaded the rest of
    its run. Reconciliation terminates what stays.
    """
    left = []
    for warm in services.groups.list_warm(group_id):
        if warm.is_idle:
            services.groups.leave_warm(
                group_id, warm.instance_id, node=warm.node, now=services.clock.now()
            )
            left.append(warm.instance_id)
    return tuple(left)


def find_abandoned_group(services: Services, group_id: str) -> tuple[Group, str] | None:
    """Return the group and its execution's status if nothing else will clean up after it."""
    group = services.groups.find_group(group_id)
    if group is None or group.is_settled:
        return None
    status = services.workflow.status_of(group.execution_arn)
    return (group, status) if is_abandoned(group, status, now=services.clock.now()) else None


def end_abandoned_group(services: Services, group_id: str) -> bool:
    """Clean up after the group's execution if nothing else will; return whether it did."""
    abandoned = find_abandoned_group(services, group_id)
    if abandoned is None:
        return False
    group, status = abandoned
    end_group(
        services,
        group_id,
        status=RunStatus.STOPPED if status == "ABORTED" else RunStatus.FAILED,
        reason=f"the execution ended unnoticed: {status.lower() or 'unknown to Step Functions'}",
        execution_arn=group.execution_arn,
    )
    return True


def _stop_members(services: Services, group: Group) -> tuple[str, ...]:
    """Stop the members that still run; return their runs.

    Step Functions stops what the parent execution waited for, but on a best-effort basis.
    """
    stopped = []
    for run_id in services.ledger.list_unsettled_runs():
        if not run_id.startswith(f"{group.group_id}-"):
            continue
        run = services.ledger.find_run(run_id)
        if run is not None and run.ended is None and run.request.group == group.group_id:
            services.workflow.stop_run(run.execution_arn, cause=group.reason)
            stopped.append(run_id)
    return tuple(stopped)


def _notify(services: Services, group: Group) -> None:
    """Publish the group's end and settle it; it never raises, as for the end of a run."""
    if group.ended is None or group.ended_at is None:
        return
    try:
        services.notices.publish(
            subject=f"{group.kind} {group.group_id} {group.ended.value}",
            body=f"{group.kind}: {group.group_id}\nstatus: {group.ended.value}\n"
            f"reason: {group.reason}\n",
        )
        services.groups.record_settled(group.group_id, end=group.ended_at)
    except Exception:
        logger.exception("the notification about the end of %s failed", group.group_id)
