"""Outputs of an attempt that is still uploading while the next attempt trains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.agent.reporting.outputs import upload_outputs
from runctl.aws.outputs import PART_BYTES, OutputStore
from runctl.model.errors import TransientError
from tests.agent.machine import Cloud

SMALL, LARGE = 100, PART_BYTES + 100


class Meanwhile:
    """S3, where something happens once between a check of an object and the write to it."""

    def __init__(self, client: Any, what: Any) -> None:
        self._client = client
        self._what = what
        self.writes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def head_object(self, **arguments: Any) -> Any:
        try:
            return self._client.head_object(**arguments)
        finally:
            what, self._what = self._what, None
            if what is not None:
                what()

    def complete_multipart_upload(self, **arguments: Any) -> Any:
        # moto looks at If-None-Match here, but not at If-Match.
        if (expected := arguments.pop("IfMatch", None)) is not None:
            place = {name: arguments[name] for name in ("Bucket", "Key")}
            if self._client.head_object(**place)["ETag"] != expected:
                raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "Complete")
        return self._client.complete_multipart_upload(**arguments)


def create(folder: Path, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(content)


def upload(cloud: Cloud, folder: Path, *, attempt: int, client: Any = None) -> int:
    outputs = OutputStore(client or cloud.clients["s3"], bucket=cloud.name, run_id="run-1")
    return upload_outputs(outputs, folder, attempt=attempt)


def stored(cloud: Cloud) -> bytes:
    return cloud.read("runs/run-1/outputs/model.bin")


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_output_of_a_later_attempt_is_never_replaced_by_an_earlier_ones(
    cloud: Cloud, tmp_path: Path, size: int
) -> None:
    create(tmp_path / "1", b"1" * size)
    create(tmp_path / "2", b"2" * size)
    assert upload(cloud, tmp_path / "2", attempt=2) == 1
    assert upload(cloud, tmp_path / "1", attempt=1) == 0
    assert stored(cloud) == b"2" * size


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_later_attempt_that_writes_between_check_and_write_wins(
    cloud: Cloud, tmp_path: Path, size: int, before: bool
) -> None:
    if before:
        create(tmp_path / "0", b"0" * size)
        upload(cloud, tmp_path / "0", attempt=1)
    create(tmp_path / "1", b"1" * size)
    create(tmp_path / "2", b"2" * size)
    s3 = Meanwhile(cloud.clients["s3"], lambda: upload(cloud, tmp_path / "2", attempt=2))
    assert upload(cloud, tmp_path / "1", attempt=1, client=s3) == 0
    assert stored(cloud) == b"2" * size


def test_later_attempt_replaces_what_an_earlier_one_writes_meanwhile(
    cloud: Cloud, tmp_path: Path
) -> None:
    create(tmp_path / "1", b"1")
    create(tmp_path / "2", b"2")
    s3 = Meanwhile(cloud.clients["s3"], lambda: upload(cloud, tmp_path / "1", attempt=1))
    assert upload(cloud, tmp_path / "2", attempt=2, client=s3) == 1
    assert stored(cloud) == b"2"


def test_outputs_of_the_same_attempt_replace_each_other(cloud: Cloud, tmp_path: Path) -> None:
    create(tmp_path, b"one")
    upload(cloud, tmp_path, attempt=3)
    create(tmp_path, b"two")
    upload(cloud, tmp_path, attempt=3)
    assert stored(cloud) == b"two"


def test_unfinished_uploads_are_aborted(cloud: Cloud, tmp_path: Path) -> None:
    create(tmp_path, b"1" * LARGE)

    class Refusing(Meanwhile):
        def complete_multipart_upload(self, **_: Any) -> None:
            raise OSError("the connection broke")

    with pytest.raises(TransientError, match="connection broke"):
        upload(cloud, tmp_path, attempt=1, client=Refusing(cloud.clients["s3"], None))
    assert "Uploads" not in cloud.clients["s3"].list_multipart_uploads(Bucket=cloud.name)


def test_name_that_is_not_utf_8_gets_a_key_that_is(cloud: Cloud, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/model-\xff.bin")).write_bytes(b"odd")
    assert upload(cloud, tmp_path, attempt=1) == 1
    assert cloud.read("runs/run-1/outputs/model-\\xff.bin") == b"odd"
