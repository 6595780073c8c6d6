"""The contract of the ledger's groups, for the table and for the fake of the control tests."""

from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.model.errors import NotFoundError, RequestError
from runctl.model.group import Group
from runctl.model.identity import group_key
from runctl.model.outcome import RunStatus
from tests.aws.conftest import make_table
from tests.control.fakes import START
from tests.control.memory_groups import MemoryGroups
from tests.control.memory_ledger import MemoryLedger

NOW = START
LATER = NOW + timedelta(minutes=5)
GROUP = Group(
    group_id="lr-search",
    kind="sweep",
    request={"script": "train.py", "trials": [1, 2.5, {"lr": "0.1"}]},
    execution="lr-search",
    execution_arn="arn:lr-search",
    started_at=NOW,
)


@pytest.fixture(params=["table", "memory"])
def groups(request, aws):
    if request.param == "table":
        return DynamoGroupLedger(*make_table())
    return MemoryGroups(MemoryLedger())


def end(groups, status=RunStatus.COMPLETED, **where):
    return groups.end_group("lr-search", status=status, reason="done", now=LATER, **where)


def test_a_group_is_read_back_as_it_was_written(groups):
    assert groups.create_group(GROUP) == GROUP
    assert groups.find_group("lr-search") == GROUP
    assert groups.find_group_of_execution("lr-search") == "lr-search"
    assert groups.find_group("another") is None
    assert groups.find_group_of_execution("another") is None


def test_a_repeated_call_finds_the_first_record(groups):
    groups.create_group(GROUP)
    assert groups.create_group(replace(GROUP, kind="process")) == GROUP


def test_the_name_of_an_execution_belongs_to_one_group(groups):
    groups.create_group(GROUP)
    with pytest.raises(RequestError, match="belongs to the group lr-search"):
        groups.create_group(replace(GROUP, group_id="other"))


def test_a_list_has_the_newest_groups_first_and_no_runs(groups):
    for number in range(3):
        name = f"group-{number}"
        groups.create_group(
            replace(GROUP, group_id=name, execution=name, started_at=NOW + timedelta(hours=number))
        )
    assert [group.group_id for group in groups.list_groups(limit=2)] == ["group-2", "group-1"]


def test_the_first_end_stays(groups):
    groups.create_group(GROUP)
    ended = end(groups)
    assert (ended.ended, ended.ended_at, ended.reason) == (RunStatus.COMPLETED, LATER, "done")
    assert end(groups, RunStatus.STOPPED) == ended


def test_another_execution_does_not_end_a_group(groups):
    groups.create_group(GROUP)
    assert end(groups, execution_arn="arn:other").ended is None
    assert end(groups, execution_arn="arn:lr-search").ended is RunStatus.COMPLETED


def test_a_stop_is_recorded_until_the_group_is_resumed(groups):
    groups.create_group(GROUP)
    assert groups.find_group("lr-search").keeps_instances
    stopped = groups.request_stop("lr-search")
    assert stopped.stop_requested
    assert not stopped.keeps_instances
    end(groups)
    resumed = groups.resume_group(
        "lr-search", execution="lr-search-r2", execution_arn="arn:lr-search-r2"
    )
    assert (resumed.ended, resumed.stop_requested) == (None, False)
    assert resumed.keeps_instances
    assert groups.find_group_of_execution("lr-search-r2") == "lr-search"


def test_a_stop_after_the_end_changes_nothing(groups):
    groups.create_group(GROUP)
    end(groups)
    assert not groups.request_stop("lr-search").stop_requested


def test_a_group_that_moves_has_one_execution(groups):
    groups.create_group(GROUP)
    move = {"execution": "again", "execution_arn": "arn:again"}
    with pytest.raises(RequestError, match="lr-search"):
        groups.resume_group("lr-search", **move)
    end(groups)
    moved = groups.resume_group("lr-search", **move)
    assert groups.resume_group("lr-search", **move) == moved
    with pytest.raises(RequestError, match="again"):
        groups.resume_group("lr-search", execution="third", execution_arn="arn:third")


def test_an_unknown_group_is_refused(groups):
    with pytest.raises(NotFoundError, match="no group lr-search"):
        end(groups)
    with pytest.raises(NotFoundError, match="no group lr-search"):
        groups.request_stop("lr-search")
    with pytest.raises(NotFoundError, match="no group lr-search"):
        groups.resume_group("lr-search", execution="a", execution_arn="arn:a")


def test_a_settled_group_is_not_listed_until_it_is_resumed(groups):
    groups.create_group(GROUP)
    assert groups.list_unsettled_groups() == ["lr-search"]
    groups.record_settled("lr-search", end=LATER)
    assert groups.list_unsettled_groups() == ["lr-search"]
    end(groups)
    groups.record_settled("lr-search", end=LATER)
    assert groups.list_unsettled_groups() == []
    assert groups.find_group("lr-search").is_settled
    groups.resume_group("lr-search", execution="again", execution_arn="arn:again")
    assert groups.list_unsettled_groups() == ["lr-search"]
    assert not groups.find_group("lr-search").is_settled


def test_what_a_newer_version_stored_is_read():
    client, table = make_table()
    groups = DynamoGroupLedger(client, table)
    groups.create_group(GROUP)
    client.update_item(
        TableName=table,
        Key={name: {"S": text} for name, text in group_key("lr-search").items()},
        UpdateExpression="SET #request = :list, #ended = :new, keep_seconds = :text, more = :text",
        ExpressionAttributeNames={"#request": "request", "#ended": "ended"},
        ExpressionAttributeValues={
            ":list": {"S": "[1]"},
            ":new": {"S": "evaporated"},
            ":text": {"S": "many"},
        },
    )
    read = groups.find_group("lr-search")
    assert read.ended is RunStatus.UNKNOWN
    assert read.request == {}
    assert read.keep_seconds == GROUP.keep_seconds
