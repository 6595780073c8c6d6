"""`runctl list` of fifty runs: a constant number of requests, and runs of an earlier version."""

import json
from collections import Counter
from datetime import timedelta

import pytest
from botocore.client import BaseClient

from runctl.aws.attributes import text_of
from runctl.model.identity import run_key
from runctl.model.outcome import OutcomeKind
from tests.cli.deployed import TABLE, Deployed, now

RUNS = 50
FIRST = "run-00"


@pytest.fixture(scope="module")
def filled(moto_server: str) -> Deployed:
    """Runs with two attempts each, of which one was interrupted.

    All are copies of the first, since to write them by the ledger takes longer than all tests of
    the file, which restore what they change.
    """
    deployed, newest = Deployed(moto_server).deploy_anew(), now()
    deployed.begin(FIRST, at=newest)
    deployed.train(FIRST, 1)
    deployed.end_attempt(FIRST, 1, OutcomeKind.INTERRUPTED)
    deployed.train(FIRST, 2)
    table = deployed.clients.get("dynamodb")
    stored = json.dumps(table.scan(TableName=TABLE)["Items"])
    begun = text_of(newest)
    assert begun in stored
    for number in range(1, RUNS):
        copied = stored.replace(FIRST, f"run-{number:02}")
        earlier = text_of(newest - timedelta(hours=number))
        for item in json.loads(copied.replace(begun, earlier)):
            table.put_item(TableName=TABLE, Item=item)
    return deployed


@pytest.fixture
def deployed(filled: Deployed) -> Deployed:
    return filled


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The operations that commands call, each with its number of calls."""
    calls: Counter[str] = Counter()
    call = BaseClient._make_api_call

    def counted(self: BaseClient, operation: str, parameters: dict) -> dict:
        calls[operation] += 1
        return call(self, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", counted)
    return calls


def test_fifty_runs_take_as_many_requests_as_one(deployed, runctl, requests):
    counts = []
    for limit in ("1", str(RUNS)):
        requests.clear()
        found = runctl("list", "--json", "--limit", limit).document["runs"]
        assert len(found) == int(limit)
        assert {(run["status"], run["attempt"], run["interruptions"]) for run in found} == {
            ("running", 2, 1)
        }
        counts.append(dict(requests))
    print(f"requests of `runctl list`: {counts[0]} for one run, {counts[1]} for {RUNS}")
    assert counts[0] == counts[1]
    assert counts[1]["Query"] == 1
    requests.clear()
    listed = runctl("list", "--json", "--status", "running", "--limit", str(RUNS)).document["runs"]
    assert (len(listed), requests["Query"]) == (RUNS, 1)


def test_runs_that_an_earlier_version_stored_are_queried(deployed, runctl, requests):
    table = deployed.clients.get("dynamodb")
    before = runctl("list", "--json", "--limit", str(RUNS)).document
    stored = []
    for number in (3, 4):
        key = {name: {"S": value} for name, value in run_key(f"run-{number:02}").items()}
        stored.append(table.get_item(TableName=TABLE, Key=key)["Item"])
        table.update_item(
            TableName=TABLE,
            Key=key,
            UpdateExpression="REMOVE summary_version, last_attempt, last_pool, running_attempts, "
            "is_recovering, interruptions",
        )
    requests.clear()
    assert runctl("list", "--json", "--limit", str(RUNS)).document == before
    assert requests["Query"] == 3
    for item in stored:
        table.put_item(TableName=TABLE, Item=item)


def test_wide_list_shows_the_pool_of_the_last_attempt(deployed, runctl):
    lines = runctl("list", "--limit", "1", env={"COLUMNS": "140"}).stdout.splitlines()
    assert lines[0].split()[-3:] == ["pool", "started", "took"]
    assert "m5.large/us-east-1a/spot" in lines[1]
    assert "pool" not in runctl("list", "--limit", "1", env={"COLUMNS": "100"}).stdout
