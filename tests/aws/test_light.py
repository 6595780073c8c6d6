"""Parts take the light way once it is known, and the ordinary one when that does not go well."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.clients import Clients
from runctl.model.checkpoint import Part


def part_of(content: bytes) -> Part:
    return Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


class Watched:
    """A store on moto's S3, with what the client itself was asked and what was sent."""

    def __init__(self) -> None:
        self.client = Clients().get("s3")
        self.client.create_bucket(Bucket="bucket")
        self.store = CheckpointStore(self.client, bucket="bucket", run_id="run")
        self.ordinary: list[str] = []
        self.sent: list[Any] = []
        for operation in ("PutObject", "GetObject"):
            self.client.meta.events.register(f"before-call.s3.{operation}", self._called)
            self.client.meta.events.register_first(f"before-send.s3.{operation}", self._sent)
        self.answer: AWSResponse | None = None

    def _called(self, model: Any, **_: Any) -> None:
        self.ordinary.append(model.name)

    def _sent(self, request: Any, **_: Any) -> AWSResponse | None:
        self.sent.append(request)
        answer, self.answer = self.answer, None
        return answer


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_only_the_first_part_is_put_and_got_by_the_client_itself(watched: Watched) -> None:
    contents = [b"%d" % number for number in range(5)]
    for content in contents:
        watched.store.put_part(part_of(content), content)
    assert [watched.store.get_part(part_of(content)) for content in contents] == contents
    assert watched.ordinary == ["PutObject"]
    assert len(watched.sent) == 10


def test_light_request_is_signed_and_has_the_checksum(watched: Watched) -> None:
    for content in (b"1", b"2"):
        watched.store.put_part(part_of(content), content)
    first, second = watched.sent
    assert second.url.rpartition("/")[0] == first.url.rpartition("/")[0]
    assert second.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=")
    assert "x-amz-checksum-sha256" in second.headers["Authorization"]
    assert {"User-Agent", "X-Amz-Date", "X-Amz-Content-SHA256"} <= set(second.headers)


class Raw:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes:
        return self._content


@pytest.mark.parametrize("status", [403, 500, 503])
def test_refused_light_put_goes_the_ordinary_way(watched: Watched, status: int) -> None:
    watched.store.put_part(part_of(b"1"), b"1")
    watched.answer = AWSResponse("", status, {}, Raw(b""))
    watched.store.put_part(part_of(b"2"), b"2")
    assert watched.ordinary == ["PutObject", "PutObject"]
    assert watched.store.has_part(part_of(b"2"))


@pytest.mark.parametrize(
    ("headers", "content"),
    [({"Content-Length": "3"}, b"on"), ({"Content-Length": "3"}, b"own"), ({}, b"on")],
    ids=["half a body", "other bytes", "half a body of no length"],
)
def test_light_get_of_other_bytes_is_got_once_more(
    watched: Watched, headers: dict[str, str], content: bytes
) -> None:
    watched.store.put_part(part_of(b"one"), b"one")
    watched.answer = AWSResponse("", 200, headers, Raw(content))
    assert watched.store.get_part(part_of(b"one")) == b"one"
    assert watched.ordinary == ["PutObject", "GetObject"]


def test_other_region_or_key_ends_the_light_way(watched: Watched) -> None:
    watched.store.put_part(part_of(b"1"), b"1")
    watched.answer = AWSResponse("", 301, {}, Raw(b""))
    for content in (b"2", b"3"):
        watched.store.put_part(part_of(content), content)
    assert watched.ordinary == ["PutObject"] * 3
    assert len(watched.sent) == 4
