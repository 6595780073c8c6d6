"""The limits of a deployment: which types are requested, and how many instances there may be."""

from dataclasses import replace

import pytest

from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.request_parsing import parse_request
from runctl.policy.deployment_limits import plan_launch, problems_with_limits
from runctl.policy.launch_plan import Keep, Launch, Refuse, Wait
from tests.policy import test_gang_launch as gangs
from tests.policy.test_launch_plan import NOW, observed

FIVE = DeploymentLimits(max_instances=5)


def problems(limits, **request):
    found = problems_with_limits(parse_request({"command": ["train"], **request}), limits)
    return {problem.field: problem.message for problem in found}


def test_without_limits_everything_is_allowed():
    limits = DeploymentLimits.from_document({})
    assert limits == DeploymentLimits()
    assert problems(limits, instance_types=["p5.48xlarge"], nodes=32) == {}


def test_a_type_that_is_not_allowed_is_named_with_the_rule_and_the_remedy():
    limits = DeploymentLimits(instance_types=("g5.*", "m5.large"))
    assert problems(limits, instance_types=["g5.xlarge", "m5.large"]) == {}
    found = problems(limits, instance_types=["g5.xlarge", "p4d.24xlarge", "m5.xlarge"])
    assert list(found) == ["instance_types"]
    assert found["instance_types"].startswith(
        "p4d.24xlarge, m5.xlarge cannot be used in this deployment, which allows g5.*, m5.large; "
    )
    assert "allowed_instance_types" in found["instance_types"]


def test_default_types_are_left_out_unless_none_is_allowed():
    assert problems(DeploymentLimits(instance_types=("m6i.*",))) == {}
    assert "instance_types" in problems(DeploymentLimits(instance_types=("p5.*",)))


@pytest.mark.parametrize(("nodes", "spares", "fits"), [(5, 0, True), (4, 2, False), (6, 0, False)])
def test_more_nodes_than_instances_are_refused(nodes, spares, fits):
    found = problems(FIVE, nodes=nodes, spares=spares)
    assert list(found) == ([] if fits else ["nodes"])
    if not fits:
        assert found["nodes"].startswith(f"{nodes + spares} nodes, spares included, are more than")


def test_only_allowed_types_are_requested():
    limits = DeploymentLimits(instance_types=("c5.*",))
    plan = plan_launch(observed(limits=limits))
    assert isinstance(plan, Launch)
    assert {pool.instance_type for pool in plan.pools} == {"c5.large"}
    assert "m5.large left out, which the deployment does not allow" in plan.reason


def test_a_run_without_an_allowed_type_is_refused():
    # The limits may have changed since the run was prepared.
    plan = plan_launch(observed(limits=DeploymentLimits(instance_types=("p5.*",))))
    assert isinstance(plan, Refuse)
    assert "m5.large, c5.large cannot be used" in plan.reason


def test_a_launch_waits_while_there_are_as_many_instances_as_permitted():
    assert isinstance(plan_launch(observed(limits=FIVE, running=4)), Launch)
    plan = plan_launch(observed(limits=FIVE, running=5))
    assert isinstance(plan, Wait)
    assert plan.until > NOW
    assert plan.reason == (
        "1 more instance would exceed max_instances (5) of the deployment, which has 5 for other "
        "runs"
    )


def test_a_gang_needs_room_for_all_of_its_missing_nodes():
    whole = gangs.observed(gangs.gang(), limits=FIVE)
    assert isinstance(plan_launch(replace(whole, running=1)), Launch)
    assert isinstance(plan_launch(replace(whole, running=2)), Wait)
    repaired = gangs.observed(gangs.gang(kept=3, missing=1), limits=FIVE)
    assert isinstance(plan_launch(replace(repaired, running=1)), Launch)
    waiting = plan_launch(replace(repaired, running=2))
    assert isinstance(waiting, Wait)
    # It gives up on the survivors then.
    assert waiting.until <= repaired.gang.repair_until


def test_a_gang_goes_on_without_spares_or_with_fewer_nodes():
    spare = gangs.observed(gangs.gang(kept=4, missing=1, needed=0), limits=FIVE, running=1)
    assert isinstance(plan_launch(spare), Keep)
    fewer = gangs.observed(gangs.gang(kept=3, missing=1, fewest=2), limits=FIVE, running=2)
    assert isinstance(plan_launch(fewer), Keep)


def test_spares_are_left_out_where_only_the_nodes_have_room():
    plan = plan_launch(gangs.observed(gangs.gang(missing=5, needed=4), limits=FIVE, running=1))
    assert isinstance(plan, Launch)
    assert (plan.count, plan.least) == (4, 4)
