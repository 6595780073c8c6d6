"""Objects, outputs and log streams: responses of AWS, translated for the callers."""

import io
import time

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from runctl.aws.blobs import Blobs
from runctl.aws.logs import LogReader, LogWriter
from runctl.aws.outputs import OutputStore
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import NotFoundError, RefusedError, TransientError, UnexpectedAwsError

REGION = "us-east-1"


@pytest.fixture
def blobs():
    client = boto3.client("s3")
    client.create_bucket(Bucket="here")
    return Blobs(client, bucket="here")


def read(blobs, key, **where):
    with blobs.open(key, **where) as blob:
        content = b"".join(blob.chunks)
        assert len(content) == blob.size_bytes
    return content


def test_an_object_is_stored_read_copied_listed_and_removed(blobs, tmp_path):
    blobs.put("a/1", b"one")
    blobs.put("a/1", b"two")
    blobs.copy("a/1", "a/2")
    (tmp_path / "large").write_bytes(b"x" * 9_000_000)
    blobs.upload("a/3", tmp_path / "large")
    assert read(blobs, "a/2") == b"two"
    assert read(blobs, "a/3", bucket="here") == b"x" * 9_000_000
    assert blobs.keys("a/") == ["a/1", "a/2", "a/3"]
    blobs.delete("a/1")
    blobs.delete("a/1")
    assert blobs.keys("a/") == ["a/2", "a/3"]


def test_a_missing_object_is_not_found(blobs):
    for where in ({}, {"bucket": "no-such-bucket"}):
        with pytest.raises(NotFoundError, match=r"s3://.*/none does not exist"):
            read(blobs, "none", **where)


def test_a_missing_file_is_not_an_error_of_aws(blobs, tmp_path):
    with pytest.raises(FileNotFoundError):
        blobs.upload("a", tmp_path / "none")


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("AccessDenied", RefusedError),
        ("SlowDown", TransientError),
        ("InvalidObjectState", UnexpectedAwsError),
    ],
)
def test_other_responses_have_their_usual_meaning(code, meaning, tmp_path):
    client = boto3.client("s3")
    blobs = Blobs(client, bucket="here")
    (tmp_path / "file").touch()
    with Stubber(client) as stub:
        for operation, call in {
            "get_object": lambda: read(blobs, "a"),
            "put_object": lambda: blobs.put("a", b""),
            "delete_object": lambda: blobs.delete("a"),
            "list_objects_v2": lambda: blobs.keys("a"),
        }.items():
            stub.add_client_error(operation, code)
            with pytest.raises(meaning):
                call()
        stub.add_client_error("put_object", code)
        with pytest.raises(meaning):
            blobs.upload("a", tmp_path / "file")


def test_a_connection_that_breaks_while_reading_is_transient():
    client = boto3.client("s3")
    with Stubber(client) as stub:
        cut_off = StreamingBody(io.BytesIO(b"1"), content_length=2)
        stub.add_response("get_object", {"Body": cut_off, "ContentLength": 2})
        with pytest.raises(TransientError, match="arrived incomplete"):
            read(Blobs(client, bucket="here"), "a")


def put(outputs, path, *, attempt):
    with OpenedFile.at(path) as file:
        return outputs.put(path.name, file, attempt=attempt)


@pytest.mark.parametrize("lost", [True, False])
def test_an_output_is_stored_again_when_the_response_was_lost(lost, tmp_path):
    client = boto3.client("s3")
    client.create_bucket(Bucket="here")
    outputs = OutputStore(client, bucket="here", run_id="run-1")
    (tmp_path / "model").write_bytes(b"weights")
    if lost:
        assert put(outputs, tmp_path / "model", attempt=2)
    assert put(outputs, tmp_path / "model", attempt=2)
    assert not put(outputs, tmp_path / "model", attempt=1)


def test_an_output_that_others_keep_changing_is_transient(tmp_path):
    client = boto3.client("s3")
    (tmp_path / "model").write_bytes(b"weights")
    with Stubber(client) as stub:
        for _ in range(10):
            stub.add_client_error("head_object", "404", http_status_code=404)
            stub.add_client_error("put_object", "ConditionalRequestConflict")
        with pytest.raises(TransientError, match="another writer"):
            put(OutputStore(client, bucket="here", run_id="r"), tmp_path / "model", attempt=1)


@pytest.fixture
def logs():
    client = boto3.client("logs")
    client.create_log_group(logGroupName="g")
    return client


def messages(client, stream):
    return [line.text for line in LogReader(client, group="g").read(stream)[0]]


@pytest.fixture
def now():
    return int(time.time() * 1000)


def test_lines_reach_a_stream_that_is_created_when_it_is_missing(logs, now):
    writer = LogWriter(logs, group="g")
    writer.put("s", [(now, "one"), (now, "two")])
    writer.put("s", [(now, "three")])
    LogWriter(logs, group="g").put("s", [(now, "four")])
    assert messages(logs, "s") == ["one", "two", "three", "four"]


def test_a_stream_that_was_deleted_is_created_again(logs, now):
    writer = LogWriter(logs, group="g")
    writer.put("s", [(now, "one")])
    logs.delete_log_stream(logGroupName="g", logStreamName="s")
    with pytest.raises(UnexpectedAwsError) as caught:
        writer.put("s", [(now, "two")])
    assert caught.value.code == "ResourceNotFoundException"
    writer.put("s", [(now, "two")])
    assert messages(logs, "s") == ["two"]


@pytest.mark.parametrize("code", ["InvalidParameterException", "DataAlreadyAcceptedException"])
def test_a_batch_that_is_never_accepted_is_dropped(code):
    client = boto3.client("logs")
    with Stubber(client) as stub:
        stub.add_response("create_log_stream", {})
        stub.add_client_error("put_log_events", code)
        LogWriter(client, group="g").put("s", [(1, "one")])


def test_a_throttled_batch_is_transient():
    client = boto3.client("logs")
    with Stubber(client) as stub:
        stub.add_response("create_log_stream", {})
        stub.add_client_error("put_log_events", "ThrottlingException")
        with pytest.raises(TransientError):
            LogWriter(client, group="g").put("s", [(1, "one")])
