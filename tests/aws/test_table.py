"""The table's behavior when DynamoDB is busy, which moto never is."""

import boto3
import pytest
from botocore.stub import ANY, Stubber

from runctl.aws.table import MAX_CONFLICTS, Table, update_of
from runctl.model.errors import TransientError

KEY = {"pk": "RUN#a", "sk": "RUN"}
MOVE = {"update": "SET #step = :step", "condition": "", "values": {"step": 1}}


@pytest.fixture
def stubbed():
    client = boto3.client("dynamodb")
    waits: list[float] = []
    with Stubber(client) as stub:
        yield stub, Table(client, "ledger", sleep=waits.append), waits
        stub.assert_no_pending_responses()


def cancelled(stub, *codes):
    stub.add_client_error(
        "transact_write_items",
        "TransactionCanceledException",
        modeled_fields={"CancellationReasons": [{"Code": code} for code in codes]},
        response_meta={},
    )


def transact(table):
    return table.transact(update_of(KEY, **MOVE), update_of({**KEY, "sk": "x"}, **MOVE))


def test_a_conflict_with_another_transaction_is_tried_again(stubbed):
    stub, table, waits = stubbed
    cancelled(stub, "None", "TransactionConflict")
    stub.add_response("transact_write_items", {}, {"TransactItems": ANY})
    assert transact(table)
    assert len(waits) == 1


def test_a_refused_condition_is_an_answer_even_together_with_a_conflict(stubbed):
    stub, table, waits = stubbed
    cancelled(stub, "ConditionalCheckFailed", "TransactionConflict")
    assert not transact(table)
    assert waits == []


def test_endless_conflicts_are_transient(stubbed):
    stub, table, waits = stubbed
    for _ in range(MAX_CONFLICTS):
        stub.add_client_error("update_item", "TransactionConflictException")
    with pytest.raises(TransientError, match="kept conflicting"):
        table.update(KEY, **MOVE)
    assert len(waits) == MAX_CONFLICTS


def test_throttling_is_transient(stubbed):
    stub, table, _ = stubbed
    stub.add_client_error("update_item", "ProvisionedThroughputExceededException")
    with pytest.raises(TransientError):
        table.update(KEY, **MOVE)


def test_keys_that_a_batch_left_unread_are_requested_again(stubbed):
    stub, table, waits = stubbed
    wire = {"pk": {"S": "RUN#a"}, "sk": {"S": "RUN"}}
    stub.add_response(
        "batch_get_item",
        {"Responses": {}, "UnprocessedKeys": {"ledger": {"Keys": [wire]}}},
    )
    stub.add_response("batch_get_item", {"Responses": {"ledger": [wire]}})
    assert list(table.get_many([KEY])) == [KEY]
    assert len(waits) == 1
