"""What the limits of a deployment mean for a request, and for a launch."""

from collections.abc import Iterator
from dataclasses import replace

from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.errors import Problem
from runctl.model.request import RunRequest
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES
from runctl.policy.gang_launch import next_try_at
from runctl.policy.gang_launch import plan_launch as plan_within_limits
from runctl.policy.launch_plan import Keep, Launch, Observation, Plan, Refuse, Wait


def problems_with_limits(request: RunRequest, limits: DeploymentLimits) -> Iterator[Problem]:
    """Check the instance types and the number of nodes of a request, with the remedies.

    Of the default types, which nobody has chosen, those that are not allowed are left out.
    """
    types = request.resources.instance_types
    allowed = limits.allowed(types)
    refused = [name for name in types if name not in allowed]
    if refused and not (allowed and types == DEFAULT_INSTANCE_TYPES):
        yield Problem("instance_types", _not_allowed(refused, limits))
    nodes = request.gang.nodes + request.gang.spares
    if 0 < limits.max_instances < nodes:
        most = limits.max_instances
        permitted = f"{most} instance{'s' if most != 1 else ''}"
        yield Problem(
            "nodes",
            f"{nodes} nodes, spares included, are more than the {permitted} that the deployment "
            "permits; lower nodes or spares, or have its owner raise "
            "max_instances and deploy again",
        )


def plan_launch(observed: Observation) -> Plan:
    """Return the next step of a launch, within the limits of the deployment.

    Machines that other launches have just requested may not be counted yet, so the number of
    instances may be exceeded for a moment.
    """
    if not observed.instance_types:
        types = observed.run.request.resources.instance_types
        return Refuse(reason=f"instance_types: {_not_allowed(types, observed.limits)}")
    plan = plan_within_limits(observed)
    most = observed.limits.max_instances
    if not most or not isinstance(plan, Launch):
        return plan
    free = most - observed.running - len(plan.kept)
    if free >= plan.count:
        return plan
    gang = observed.gang
    if gang is not None and (gang.can_train or not gang.needed):
        return Keep(kept=plan.kept, reason=f"without {gang.missing} more, of {_rule(observed)}")
    if free >= plan.least:
        return replace(plan, count=free, reason=f"{plan.reason}; no more, of {_rule(observed)}")
    more = f"{plan.least} more instance{'s' if plan.least != 1 else ''}"
    return Wait(
        until=next_try_at(observed, retry_soon=False),
        reason=f"{more} would exceed {_rule(observed)}",
    )


def _not_allowed(names: list[str] | tuple[str, ...], limits: DeploymentLimits) -> str:
    return (
        f"{', '.join(names)} cannot be used in this deployment, which allows "
        f"{', '.join(limits.instance_types)}; name one of these, or have its owner extend "
        "allowed_instance_types and deploy again"
    )


def _rule(observed: Observation) -> str:
    return (
        f"max_instances ({observed.limits.max_instances}) of the deployment, which has "
        f"{observed.running} for other runs"
    )
