"""Instances whose agent is a real process, S3, DynamoDB and Logs by moto on 127.0.0.1."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.agent.doubles import MetadataDouble, TokensDouble
from tests.agent.machine import Cloud, Machine
from tests.moto_server import serving

if TYPE_CHECKING:
    from tests.agent.test_bootstrap import Boot
    from tests.agent.test_existing_instance import ExistingInstance

REGION = "us-east-1"


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with serving() as url:
        yield url


def make_client(service: str, endpoint: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def cloud(endpoint: str) -> Iterator[Cloud]:
    """A bucket, a table and a log group of the test's own."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    tokens = TokensDouble()
    clients = {service: make_client(service, endpoint) for service in ("s3", "dynamodb", "logs")}
    clients["s3"].create_bucket(Bucket=name)
    clients["dynamodb"].create_table(
        TableName=name,
        KeySchema=[
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    clients["logs"].create_log_group(logGroupName=name)
    made = Cloud(name=name, endpoint=endpoint, clients=clients, tokens=tokens)
    yield made
    tokens.close()
    made.sessions.close()
    made.metadata.close()
    for client in clients.values():
        client.close()


@pytest.fixture
def launch(cloud: Cloud, tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Launch machines that end with the test."""
    machines: list[Machine] = []

    def launch_machine(attempt: int = 1, *, start: bool = True, **options: Any) -> Machine:
        metadata = MetadataDouble(run_id=cloud.run_id, attempt=attempt)
        root = tmp_path / f"machine-{len(machines) + 1}"
        machine = Machine(root, cloud, metadata, attempt=attempt, **options)
        machines.append(machine)
        if start:
            machine.start()
        return machine

    yield launch_machine
    for machine in machines:
        machine.end()


@pytest.fixture(autouse=True)
def _no_credentials_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """A root folder to boot a new machine into."""
    from tests.agent.test_bootstrap import Boot

    made = Boot(tmp_path / "root")
    yield made
    made.metadata.close()
    made.store.close()


@pytest.fixture
def existing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExistingInstance]:
    """A root folder of an existing instance."""
    from tests.agent.test_existing_instance import ExistingInstance

    made = ExistingInstance(tmp_path / "root")
    monkeypatch.setattr("tests.agent.test_bootstrap.SCRIPT", made.script)
    yield made
    made.metadata.close()
    made.store.close()
