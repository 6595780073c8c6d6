"""A run survives every failure of S3 and DynamoDB, with the bytes of an undisturbed run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.faulty import Front, Trouble
from tests.agent.machine import Cloud, wait_until
from tests.agent.stepping import begin, check_whole, complete, finish, lose, seed, words

pytestmark = pytest.mark.slow

PARTS = "/checkpoints/parts/"
MANIFESTS = "/checkpoints/manifests/"


@pytest.fixture
def front(cloud: Cloud, endpoint: str) -> Iterator[Front]:
    """The AWS that the machines of this test see; the test itself sees the server behind it."""
    front = Front(endpoint)
    cloud.endpoint = front.url
    yield front
    front.close()


@pytest.mark.parametrize(
    ("s3", "dynamodb"),
    [
        (Trouble.SLOW, Trouble.SLOW),
        (Trouble.SLOW_DOWN, Trouble.THROTTLED),
        (Trouble.INTERNAL, Trouble.SERVER_ERROR),
        (Trouble.RESET, Trouble.RESET),
        (Trouble.LOST_ANSWER, Trouble.LOST_ANSWER),
        (Trouble.HALF_BODY, Trouble.OVER_CAPACITY),
        (Trouble.FLIPPED_BYTE, Trouble.HALF_BODY),
    ],
    ids=lambda trouble: trouble.value,
)
def test_run_is_restored_saved_and_reported_through_trouble(
    cloud: Cloud, front: Front, launch, tmp_path: Path, s3: Trouble, dynamodb: Trouble
) -> None:
    begin(cloud)
    cloud.give_token()
    seed(cloud, tmp_path, step=3)
    lose(cloud, 1)
    orders = [
        front.order(s3, f"GET .*{MANIFESTS}"),
        front.order(s3, f"GET .*{PARTS}"),
        front.order(s3, f"PUT .*{PARTS}"),
        front.order(s3, f"PUT .*{MANIFESTS}"),
        front.order(dynamodb, "GetItem"),
        front.order(dynamodb, "UpdateItem|TransactWriteItems", times=2),
    ]
    second = launch(attempt=2)
    complete(cloud, tmp_path)
    assert [order.asked.pattern for order in orders if not order.happened] == []
    assert words(second).startswith("from 3 ['shared.bin', 'step-3.bin']")


def test_another_writer_of_the_same_manifest_at_the_same_instant_is_waited_for(
    cloud: Cloud, front: Front, launch, tmp_path: Path
) -> None:
    begin(cloud)
    cloud.give_token()
    order = front.order(Trouble.CONFLICT, f"PUT .*{MANIFESTS}", times=3)
    launch()
    finish(cloud, tmp_path)
    assert order.left == 0


def test_refused_upload_is_reported_and_repeated_once_it_is_permitted(
    cloud: Cloud, front: Front, launch, tmp_path: Path
) -> None:
    begin(cloud, HOLD_AT="2")
    cloud.give_token()
    front.order(Trouble.FORBIDDEN, f"PUT .*{PARTS}", times=1000)
    machine = launch()
    wait_until(lambda: "AccessDenied" in cloud.attempt().warning)
    assert cloud.run().newest is None
    assert "from 0" in words(machine)  # and it continues training
    front.relent()
    wait_until(lambda: cloud.run().step == 2)
    wait_until(lambda: not cloud.attempt().warning)
    assert check_whole(cloud, tmp_path) == 2
