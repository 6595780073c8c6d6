"""moto as a server on 127.0.0.1, whose DynamoDB is as atomic as the real one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.dynamodb.responses import DynamoHandler
from moto.server import ThreadedMotoServer

call_action = DynamoHandler.call_action
one_at_a_time = threading.Lock()


def call_alone(handler: DynamoHandler) -> Any:
    """Answer one request after the other.

    moto's UpdateItem first puts an item of nothing but its keys, which a reader at the same moment
    would see; in DynamoDB nobody sees half an update.
    """
    with one_at_a_time:
        return call_action(handler)


@contextmanager
def using_bucket(endpoint: str, name: str) -> Iterator[Any]:
    """Make a bucket on a server and yield a client; the bucket is emptied afterwards."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=name)
    yield client
    for item in client.list_objects_v2(Bucket=name).get("Contents", ()):
        client.delete_object(Bucket=name, Key=item["Key"])
    client.close()


@contextmanager
def serving() -> Iterator[str]:
    """Serve until the end of the block; yields the endpoint."""
    DynamoHandler.call_action = call_alone
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
