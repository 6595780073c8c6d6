"""The summary of a run's attempts agrees with them, whatever changes them."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.aws.ledger import DynamoLedger
from runctl.model.errors import RunEndedError
from runctl.model.identity import attempt_key, run_key
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.run import AttemptsSummary, AttemptStage, Launched, summarize
from tests.aws.conftest import make_table
from tests.aws.test_ledger import LATER, LOST, NOW, a_run, launched, training
from tests.control.memory_ledger import MemoryLedger

OUTCOMES = [Outcome(kind=kind) for kind in OutcomeKind]
OUTCOMES.append(Outcome(kind=OutcomeKind.FAILED, exit_code=1))
MOVES = st.one_of(
    st.sampled_from(["open", "try again", "launch", "train", "train"]),
    # Slow functions, which others have overtaken.
    st.tuples(st.integers(1, 4), st.sampled_from(["try again", "launch"])),
    st.tuples(st.integers(1, 4), st.sampled_from(OUTCOMES)),
)


def move(ledger, change):
    """Make one of the changes that control functions make, if they would make it."""
    attempts = ledger.attempts("run-1")
    number = attempts[-1].number if attempts else 0
    if isinstance(change, tuple):
        if change[0] > number:
            return
        number, change = change
    if change == "open" and (not attempts or attempts[-1].stage is not AttemptStage.LAUNCHING):
        ledger.open_attempt("run-1", number + 1, launch_try=1, source=Launched("a"), now=NOW)
    elif change == "try again" and attempts:
        ledger.open_attempt("run-1", number, launch_try=2, source=Launched("b"), now=NOW)
    elif change == "launch" and attempts:
        pool = f"m5.large/zone-{number % 2}/spot"
        ids = [f"i-{number}"]
        ledger.record_launch("run-1", number, instance_ids=ids, pool=pool, now=NOW)
    elif change == "train" and attempts and attempts[-1].instance_ids:
        ledger.record_token("run-1", number, token="t", execution_arn="arn:run-1", now=NOW)
    elif isinstance(change, Outcome):
        ledger.end_attempt("run-1", number, outcome=change, now=NOW)


def test_summary_follows_the_attempts_in_every_order(aws):
    tables = (make_table(f"ledger-{number}") for number in range(1000))

    @settings(max_examples=60, deadline=None)
    @given(changes=st.lists(MOVES, max_size=15))
    def follows(changes):
        for ledger in (DynamoLedger(*next(tables)), MemoryLedger()):
            ledger.create_run(a_run())
            for change in changes:
                move(ledger, change)
                summary = ledger.find_run("run-1").summary
                assert summary == summarize(ledger.attempts("run-1"))

    follows()


@pytest.fixture(params=["table", "memory"])
def ledger(request, aws):
    return DynamoLedger(*make_table()) if request.param == "table" else MemoryLedger()


def test_new_run_has_the_summary_of_no_attempts(ledger):
    assert ledger.create_run(a_run()).summary == AttemptsSummary()
    assert not ledger.refresh_summary("run-1")
    assert not ledger.refresh_summary("run-2")


def test_run_of_an_earlier_version_has_no_summary_until_it_is_refreshed(ledger):
    ledger.create_run(replace(a_run(), summary=None))
    training(ledger)
    ledger.end_attempt("run-1", 1, outcome=LOST, now=LATER)
    assert ledger.find_run("run-1").summary is None
    assert ledger.refresh_summary("run-1")
    assert ledger.find_run("run-1").summary == AttemptsSummary(
        last=1, pool="m5.large/z/spot", pool_attempt=1, is_recovering=True, interruptions=1
    )
    assert not ledger.refresh_summary("run-1")
    training(ledger, 2)
    assert ledger.find_run("run-1").summary == summarize(ledger.attempts("run-1"))


def test_slow_functions_change_their_attempt_but_not_the_summary_of_a_later_one(ledger):
    ledger.create_run(a_run())
    for number in (1, 2):
        ledger.open_attempt("run-1", number, launch_try=1, source=Launched("a"), now=NOW)
    ledger.record_launch("run-1", 2, instance_ids=["i-2"], pool="m5.large/b/spot", now=NOW)
    tried = ledger.open_attempt("run-1", 1, launch_try=2, source=Launched("b"), now=NOW)
    assert tried.launch_try == 2
    slow = ledger.record_launch("run-1", 1, instance_ids=["i-1"], pool="m5.large/a/spot", now=NOW)
    assert slow.instance_ids == ("i-1",)
    summary = ledger.find_run("run-1").summary
    assert (summary.last, summary.pool) == (2, "m5.large/b/spot")
    assert summary == summarize(ledger.attempts("run-1"))


def test_slow_function_changes_nothing_of_a_run_that_has_ended(ledger):
    ledger.create_run(a_run())
    for number in (1, 2):
        ledger.open_attempt("run-1", number, launch_try=1, source=Launched("a"), now=NOW)
    ledger.end_run("run-1", status=RunStatus.STOPPED, reason="", now=NOW)
    before = ledger.attempts("run-1")
    with pytest.raises(RunEndedError):
        ledger.open_attempt("run-1", 1, launch_try=2, source=Launched("b"), now=NOW)
    with pytest.raises(RunEndedError):
        ledger.record_launch("run-1", 1, instance_ids=["i-1"], pool="m5.large/a/spot", now=NOW)
    assert ledger.attempts("run-1") == before
    assert ledger.find_instance("i-1") is None


class Table:
    """A run whose only attempt an earlier version ended, which left the summary as it was."""

    def __init__(self) -> None:
        self.client, self.name = make_table()
        self.ledger = DynamoLedger(self.client, self.name)
        self.ledger.create_run(a_run())
        training(self.ledger)
        self.client.update_item(
            TableName=self.name,
            Key={name: {"S": value} for name, value in attempt_key("run-1", 1).items()},
            UpdateExpression="SET stage = :ended, ended = :outcome",
            ExpressionAttributeValues={
                ":ended": {"S": "ended"},
                ":outcome": {"S": '{"kind":"lost"}'},
            },
        )

    @property
    def summary(self):
        return self.ledger.find_run("run-1").summary


def test_end_that_an_earlier_version_recorded_is_counted_by_a_refresh(aws):
    table = Table()
    assert table.summary.running == {1}
    assert table.ledger.refresh_summary("run-1")
    assert table.summary == summarize(table.ledger.attempts("run-1"))
    assert (table.summary.running, table.summary.interruptions) == (frozenset(), 1)


def test_refresh_keeps_a_summary_that_changes_meanwhile(aws, monkeypatch):
    table = Table()
    read = table.ledger.attempts

    def read_and_overtake(run_id):
        attempts = read(run_id)
        launched(table.ledger, 2)
        return attempts

    monkeypatch.setattr(table.ledger, "attempts", read_and_overtake)
    assert not table.ledger.refresh_summary("run-1")
    assert (table.summary.last, table.summary.pool) == (2, "m5.large/z/spot")


def test_summary_of_a_newer_version_is_not_used(aws):
    table = Table()
    table.client.update_item(
        TableName=table.name,
        Key={name: {"S": value} for name, value in run_key("run-1").items()},
        UpdateExpression="SET summary_version = :newer",
        ExpressionAttributeValues={":newer": {"N": "2"}},
    )
    assert table.summary is None
