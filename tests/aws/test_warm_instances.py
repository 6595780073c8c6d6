"""The contract of warm instances, for the table and for the fake of the control tests."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.aws.ledger import DynamoLedger
from runctl.model.errors import RunEndedError
from runctl.model.group import WarmInstance, WarmStage
from runctl.model.identity import warm_key, warm_list_key
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus
from runctl.model.run import AttemptStage, Launched, Warm
from runctl.policy.warm import waited
from tests.aws.conftest import make_table
from tests.aws.test_ledger import a_run
from tests.control.fakes import START
from tests.control.memory_groups import MemoryGroups
from tests.control.memory_ledger import MemoryLedger

NOW = START
LATER = NOW + timedelta(minutes=1)
POOL = "m5.large/z/spot"
FIRST, SECOND = NodeId("run-1", 1, 0), NodeId("run-2", 1, 0)
OFFER = WarmInstance(group_id="group", instance_id="i-1", node=FIRST, disk_bytes=50 * 2**30)


@pytest.fixture(params=["table", "memory"])
def both(request, aws):
    """Return the ledger and its groups, with a run on i-1 and two runs without an instance."""
    if request.param == "table":
        client, name = make_table()
        found = SimpleNamespace(
            ledger=DynamoLedger(client, name), groups=DynamoGroupLedger(client, name)
        )
    else:
        ledger = MemoryLedger()
        found = SimpleNamespace(ledger=ledger, groups=MemoryGroups(ledger))
    for run_id in ("run-1", "run-2", "run-3"):
        found.ledger.create_run(a_run(run_id))
    found.ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("{}"), now=NOW)
    found.ledger.record_launch("run-1", 1, instance_ids=["i-1"], pool=POOL, now=NOW)
    return found


@pytest.fixture
def ledger(both):
    return both.ledger


@pytest.fixture
def groups(both):
    return both.groups


def keep(groups, node=FIRST, now=NOW):
    return groups.keep_warm("group", "i-1", node=node, pool=POOL, keep_seconds=60, now=now)


def waiting(groups):
    groups.offer_warm(OFFER)
    assert keep(groups)
    return groups.find_warm("group", "i-1")


def claim(ledger, groups, warm, run_id="run-2"):
    ledger.open_attempt(run_id, 1, launch_try=1, source=Warm("i-1"), now=NOW)
    return groups.claim_warm(warm, run_id, 1, now=LATER)


def test_an_offer_waits_once_its_run_has_ended(groups):
    assert groups.offer_warm(OFFER) == OFFER
    assert groups.list_warm("group") == []
    assert keep(groups)
    held = groups.find_warm("group", "i-1")
    assert groups.list_warm("group") == [held]
    assert (held.stage, held.since, held.keep_seconds) == (WarmStage.WAITING, NOW, 60)
    assert (held.pool, held.disk_bytes, held.node) == (POOL, 50 * 2**30, FIRST)
    assert keep(groups, now=LATER)
    assert groups.find_warm("group", "i-1") == held
    assert groups.list_warm("other") == []


def test_an_instance_without_an_offer_is_not_kept(groups):
    assert not keep(groups)
    assert groups.find_warm("group", "i-1") is None


def test_a_claim_gives_the_instance_to_the_attempt(ledger, groups):
    attempt = claim(ledger, groups, waiting(groups))
    assert attempt.stage is AttemptStage.LAUNCHED
    assert attempt.instance_ids == ("i-1",)
    assert attempt.pool == POOL
    assert attempt.launched_at == LATER
    assert attempt.is_on_warm_instance
    assert not attempt.is_on_existing_instance
    assert ledger.find_instance("i-1") == SECOND
    held = groups.find_warm("group", "i-1")
    assert (held.stage, held.node) == (WarmStage.CLAIMED, SECOND)


def test_one_of_two_claims_gets_the_instance(ledger, groups):
    warm = waiting(groups)
    claim(ledger, groups, warm)
    assert claim(ledger, groups, warm, "run-3").stage is AttemptStage.LAUNCHING
    assert ledger.find_instance("i-1") == SECOND


def test_a_repeated_claim_changes_nothing(ledger, groups):
    warm = waiting(groups)
    assert claim(ledger, groups, warm) == claim(ledger, groups, warm)


def test_an_offer_whose_run_goes_on_cannot_be_claimed(ledger, groups):
    offered = groups.offer_warm(OFFER)
    assert claim(ledger, groups, offered).stage is AttemptStage.LAUNCHING
    assert ledger.find_instance("i-1") == FIRST


def test_an_ended_run_claims_nothing(ledger, groups):
    warm = waiting(groups)
    ledger.open_attempt("run-2", 1, launch_try=1, source=Warm("i-1"), now=NOW)
    ledger.end_run("run-2", status=RunStatus.STOPPED, reason="enough", now=NOW)
    with pytest.raises(RunEndedError):
        groups.claim_warm(warm, "run-2", 1, now=LATER)
    assert groups.find_warm("group", "i-1").stage is WarmStage.WAITING
    assert ledger.find_instance("i-1") == FIRST


def test_an_attempt_that_was_launched_elsewhere_meanwhile_claims_nothing(ledger, groups):
    warm = waiting(groups)
    ledger.open_attempt("run-2", 1, launch_try=1, source=Warm("i-1"), now=NOW)
    ledger.open_attempt("run-2", 1, launch_try=2, source=Launched("{}"), now=NOW)
    ledger.record_launch("run-2", 1, instance_ids=["i-2"], pool=POOL, now=NOW)
    held = groups.claim_warm(warm, "run-2", 1, now=LATER)
    assert held.instance_ids == ("i-2",)
    assert not held.is_on_warm_instance
    assert groups.find_warm("group", "i-1").stage is WarmStage.WAITING


def test_what_has_left_cannot_be_kept_or_claimed(ledger, groups):
    warm = waiting(groups)
    left = groups.leave_warm("group", "i-1", node=FIRST, now=LATER)
    assert left.stage is WarmStage.LEFT
    assert groups.leave_warm("group", "i-1", node=FIRST, now=LATER) == left
    assert claim(ledger, groups, warm).stage is AttemptStage.LAUNCHING
    assert not keep(groups)
    assert groups.offer_warm(OFFER).stage is WarmStage.LEFT
    assert groups.list_warm("group") == []


def test_what_its_agent_has_withdrawn_cannot_be_claimed_and_leaves_the_list_later(ledger, groups):
    warm = waiting(groups)
    left = groups.withdraw_offer("group", "i-1", node=FIRST, now=LATER)
    assert left.stage is WarmStage.LEFT
    assert groups.list_warm("group") == [warm]
    assert claim(ledger, groups, warm).stage is AttemptStage.LAUNCHING
    assert ledger.find_instance("i-1") == FIRST
    assert groups.leave_warm("group", "i-1", node=FIRST, now=LATER + timedelta(hours=1)) == left
    assert groups.list_warm("group") == []
    (listed,) = groups.list_all_warm("group")
    assert (listed.stage, listed.left_at) == (WarmStage.LEFT, LATER)


def test_what_was_claimed_does_not_leave(ledger, groups):
    claim(ledger, groups, waiting(groups))
    held = groups.leave_warm("group", "i-1", node=FIRST, now=LATER)
    assert (held.stage, held.node) == (WarmStage.CLAIMED, SECOND)
    assert groups.leave_warm("group", "i-1", node=SECOND, now=LATER).stage is WarmStage.CLAIMED


def test_nothing_leaves_without_an_offer(groups):
    assert groups.leave_warm("group", "i-1", node=FIRST, now=LATER) is None
    assert groups.find_warm("group", "i-1") is None


def test_an_instance_goes_from_run_to_run(ledger, groups):
    claim(ledger, groups, waiting(groups))
    # A late call for the run before.
    assert groups.offer_warm(OFFER).stage is WarmStage.CLAIMED
    assert keep(groups)
    assert groups.find_warm("group", "i-1").stage is WarmStage.CLAIMED
    groups.offer_warm(WarmInstance(group_id="group", instance_id="i-1", node=SECOND))
    assert keep(groups, SECOND)
    assert claim(ledger, groups, groups.find_warm("group", "i-1"), "run-3").was_launched
    assert ledger.find_instance("i-1") == NodeId("run-3", 1, 0)


def test_a_stage_of_a_newer_version_cannot_be_claimed():
    client, table = make_table()
    groups = DynamoGroupLedger(client, table)
    waiting(groups)
    for key in (warm_key("group", "i-1"), warm_list_key("group", "i-1")):
        client.update_item(
            TableName=table,
            Key={name: {"S": text} for name, text in key.items()},
            UpdateExpression="SET stage = :new, disk_bytes = :text",
            ExpressionAttributeValues={":new": {"S": "hovering"}, ":text": {"S": "much"}},
        )
    read = groups.find_warm("group", "i-1")
    assert (read.stage, read.disk_bytes) == (WarmStage.LEFT, 0)
    assert groups.list_warm("group") == []


def test_the_time_of_all_waits_is_kept(ledger, groups):
    claim(ledger, groups, waiting(groups))
    (claimed,) = groups.list_all_warm("group")
    assert (claimed.waited, claimed.since) == (timedelta(minutes=1), None)
    groups.offer_warm(replace(OFFER, node=SECOND))
    assert keep(groups, node=SECOND, now=LATER)
    end = LATER + timedelta(seconds=20)
    groups.leave_warm("group", "i-1", node=SECOND, now=end)
    groups.leave_warm("group", "i-1", node=SECOND, now=end + timedelta(hours=1))
    (left,) = groups.list_all_warm("group")
    assert (left.stage, left.since, left.left_at) == (WarmStage.LEFT, LATER, end)
    assert waited(left, now=end + timedelta(days=1)) == timedelta(seconds=80)
    assert groups.list_warm("group") == []
    assert groups.list_all_warm("other") == []
