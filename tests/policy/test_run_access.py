"""Which session an instance gets, in every state of its run and attempt."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.group import WarmInstance, WarmStage
from runctl.model.node import Node, NodeId
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.policy.environment_areas import area_of
from runctl.policy.run_access import (
    UNTIL_OVER,
    Denial,
    Grant,
    Known,
    Purpose,
    Reach,
    decide_access,
)
from tests.attempts import make_attempt

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
INSTANCE = "i-0123456789abcdef0"
NODE = NodeId("run-1", 2, 0)
INTERRUPTED = Outcome(kind=OutcomeKind.INTERRUPTED)
MOMENTS_AGO, LONG_AGO = NOW - timedelta(seconds=30), NOW - UNTIL_OVER


def a_run(*, request: dict | None = None, **values) -> Run:
    return Run(
        run_id="run-1",
        request=RunRequest.from_stored({"command": ["train"], **(request or {})}),
        started_at=NOW,
        execution="run-1",
        execution_arn="arn",
        **values,
    )


def known(run: Run | None = None, *, nodes: int = 1, warm: WarmStage | None = None, **attempt):
    found = make_attempt(2, instance_id=INSTANCE, **attempt)
    others = tuple(
        Node(run_id="run-1", attempt=2, rank=rank, instance_id=f"i-{rank}")
        for rank in range(1, nodes)
    )
    return Known(
        instance_id=INSTANCE,
        node=NODE,
        run=run or a_run(fence=2),
        attempt=replace(found, nodes=(*found.nodes, *others)),
        warm=None
        if warm is None
        else WarmInstance(group_id="g", instance_id=INSTANCE, node=NODE, stage=warm),
    )


def decided(known: Known, purpose: Purpose = Purpose.AGENT, **more) -> Grant | Denial:
    return decide_access(known, purpose, now=NOW, **more)


@pytest.mark.parametrize("fence", [0, 1, 2])
def test_an_attempt_has_a_session_before_and_while_it_has_the_fence(fence):
    grant = decided(known(a_run(fence=fence)))
    assert isinstance(grant, Grant)
    assert (grant.node, grant.reach) == (NODE, Reach.RUN)
    assert grant.tags == {"RunId": "run-1", "Attempt": "0002", "Environments": "shared"}


def test_tags_name_the_group_and_the_run_that_is_followed():
    request = {
        "group": "g", "kind": "evaluate",
        "evaluate": {"checkpoint": "run:other", "every_checkpoint": True},
    }  # fmt: skip
    grant = decided(known(a_run(request=request)))
    assert isinstance(grant, Grant)
    assert grant.tags == {
        "RunId": "run-1", "Attempt": "0002", "Group": "g", "Instance": INSTANCE,
        "Followed": "other", "Environments": "shared",
    }  # fmt: skip


@pytest.mark.parametrize(
    "request_", [{"root": True}, {"instance_id": INSTANCE}, {"root": True, "group": "g"}]
)
def test_an_agent_that_others_may_control_stores_no_environments_for_all_runs(request_):
    grant = decided(known(a_run(request=request_)))
    assert isinstance(grant, Grant)
    assert "Environments" not in grant.tags
    assert area_of(grant.run.request, "run-1") == request_.get("group", "run-1")


def test_a_run_that_shares_environments_has_no_area():
    assert area_of(a_run(request={"group": "g", "root": False}).request, "run-1") == ""


@pytest.mark.parametrize("reach", [Reach.WARM, Reach.TRAINER])
def test_no_other_session_stores_environments(reach):
    run = a_run(request={"group": "g"})
    grant = Grant(node=NODE, run=run, reach=reach, instance_id="i-1")
    assert grant.tags == {"Group": "g", "Instance": "i-1"}
    alone = Grant(node=NODE, run=a_run(), reach=reach, instance_id="i-1")
    assert alone.tags == {}


ENDED = a_run(fence=2, ended=RunStatus.STOPPED, ended_at=LONG_AGO)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (known(a_run(fence=3)), "attempt 3 of run-1 has taken over"),
        (known(ENDED), "the run run-1 has ended: stopped"),
        (
            known(ended=INTERRUPTED, ended_at=LONG_AGO),
            "attempt 2 of run-1 has ended: interrupted",
        ),
        (known(ended=INTERRUPTED, ended_at=None), "attempt 2 of run-1 has ended"),
        (replace(known(), attempt=None), "no attempt 2"),
        (replace(known(), run=None), "no attempt 2"),
    ],
)
def test_what_is_over_gets_no_session(found, reason):
    denial = decided(found)
    assert isinstance(denial, Denial)
    assert denial.status == "over"
    assert reason in denial.reason


@pytest.mark.parametrize(
    "found",
    [
        known(a_run(fence=2, ended=RunStatus.STOPPED, ended_at=MOMENTS_AGO)),
        known(ended=INTERRUPTED, ended_at=MOMENTS_AGO),
    ],
)
def test_an_agent_that_is_restarted_while_it_saves_or_reports_may_finish(found):
    assert isinstance(decided(found), Grant)


def test_a_later_attempt_ends_an_earlier_one_at_once():
    found = known(a_run(fence=3), ended=INTERRUPTED, ended_at=MOMENTS_AGO)
    assert isinstance(decided(found), Denial)


@pytest.mark.parametrize("stage", [WarmStage.OFFERED, WarmStage.WAITING])
def test_an_instance_that_waits_for_its_group_reaches_only_its_item(stage):
    run = replace(ENDED, request=a_run(request={"group": "g"}).request)
    grant = decided(known(run, warm=stage))
    assert isinstance(grant, Grant)
    assert grant.reach is Reach.WARM
    assert grant.tags == {"Group": "g", "Instance": INSTANCE}


@pytest.mark.parametrize("stage", [WarmStage.CLAIMED, WarmStage.LEFT])
def test_an_instance_that_does_not_wait_any_more_is_over(stage):
    assert isinstance(decided(known(ENDED, warm=stage)), Denial)


def test_an_instance_that_was_offered_before_its_end_still_finishes_its_attempt():
    grant = decided(known(warm=WarmStage.OFFERED))
    assert isinstance(grant, Grant)
    assert grant.reach is Reach.RUN


def test_the_machines_of_a_gang_look_for_the_next_attempt_until_the_run_has_ended():
    ended = {"ended": INTERRUPTED, "ended_at": LONG_AGO}
    assert isinstance(decided(known(nodes=2, **ended)), Grant)
    assert isinstance(decided(known(nodes=1, **ended)), Denial)
    assert isinstance(decided(known(ENDED, nodes=2)), Denial)
    assert isinstance(decided(known(a_run(fence=3), nodes=2, **ended)), Denial)


def test_a_trainer_gets_a_session_only_if_its_run_wants_one():
    wants = a_run(fence=2, request={"credentials": "run"})
    grant = decided(known(wants), Purpose.TRAINER)
    assert isinstance(grant, Grant)
    assert grant.reach is Reach.TRAINER
    assert grant.tags == {}
    denial = decided(known(), Purpose.TRAINER)
    assert isinstance(denial, Denial)
    assert denial.status == "refused"
    late = decided(known(wants, ended=INTERRUPTED, ended_at=MOMENTS_AGO), Purpose.TRAINER)
    assert isinstance(late, Denial)
    assert late.status == "over"


def test_an_instance_that_is_not_recorded_yet_asks_again():
    unknown = Known(instance_id=INSTANCE)
    launching = Known(instance_id=INSTANCE, run=a_run(), attempt=make_attempt(2))
    for claimed in (None, Known(instance_id=INSTANCE), launching, known()):
        denial = decided(unknown, claimed=claimed)
        assert isinstance(denial, Denial)
        assert denial.status == "unknown"


@pytest.mark.parametrize(
    "claimed",
    [
        Known(instance_id="i-x", run=a_run(), attempt=make_attempt(2, instance_id="i-other")),
        replace(known(ENDED), node=None),
        replace(known(a_run(fence=3)), node=None),
    ],
)
def test_a_machine_that_was_launched_twice_or_too_late_may_end(claimed):
    denial = decided(Known(instance_id="i-x"), claimed=claimed)
    assert isinstance(denial, Denial)
    assert denial.status == "over"
