"""Shards in S3: each is completed once, and no shard replaces the files of another."""

import json
from datetime import datetime, timezone

import boto3
import pytest
from botocore.stub import Stubber

from runctl.aws.processing_jobs import ProcessingJobs
from runctl.aws.shards import ShardStore
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import ForbiddenDataError, NotFoundError, RequestError
from runctl.model.shard import PlanHeader

AT = datetime(2030, 1, 1, tzinfo=timezone.utc)
OUTPUT = "s3://results/clean/"


@pytest.fixture
def client():
    client = boto3.client("s3")
    for name in ("own", "results"):
        client.create_bucket(Bucket=name)
    return client


@pytest.fixture
def store(client):
    return ShardStore(client, bucket="own", job="job")


@pytest.fixture
def jobs(client):
    return ProcessingJobs(client, bucket="own")


def header(**changes):
    values = {
        "run_id": "job",
        "started_at": AT,
        "input": "s3://own/inputs/",
        "output": OUTPUT,
        "shards": 1,
        "files": 1,
        "size_bytes": 1,
        "largest_bytes": 1,
    }
    return PlanHeader(**{**values, **changes})


def result(shard, attempt, **values):
    return json.dumps({"shard": shard, "attempt": attempt, **values})


def test_a_result_is_stored_once(store):
    first, second = result(7, 1, outputs=["a"]), result(7, 1, outputs=["b"])
    assert store.commit(7, first, attempt=1)
    assert store.commit(7, first, attempt=1)  # the answer was lost, and the call is repeated
    assert store.find_result(7) == first
    assert store.commit(7, second, attempt=2)
    assert store.find_result(7) == second


def test_an_earlier_attempt_does_not_replace_the_result_of_a_later_one(store):
    later = result(7, 2)
    assert store.commit(7, later, attempt=2)
    assert not store.commit(7, result(7, 1), attempt=1)
    assert store.find_result(7) == later


def test_the_shards_of_a_part_of_the_job_are_listed(store):
    for shard in (0, 1, 5, 9, 10):
        store.commit(shard, result(shard, 1), attempt=1)
    store.record_failure(6, result(6, 1, reason="x"))
    assert list(store.done(first=0, last=10)) == [0, 1, 5, 9, 10]
    assert list(store.done(first=1, last=9)) == [1, 5, 9]
    assert list(store.done(first=2, last=4)) == []
    assert [failure["reason"] for failure in store.failures(first=5, last=9)] == ["x"]
    assert store.find_result(3) is None


def put(store, name, path, **of):
    with OpenedFile.at(path) as file:
        store.put_output(OUTPUT, name, file, **of)


def test_a_shard_that_is_tried_again_replaces_its_own_files_only(store, client, tmp_path):
    path = tmp_path / "part.csv"
    path.write_text("one")
    put(store, "part.csv", path, shard=1, attempt=1)
    path.write_text("another")
    put(store, "part.csv", path, shard=1, attempt=2)
    with pytest.raises(RequestError, match=r"shard 1 has written part.csv, too; .*RUNCTL_SHARD"):
        put(store, "part.csv", path, shard=2, attempt=2)
    with pytest.raises(RequestError, match="a later attempt has written"):
        put(store, "part.csv", path, shard=1, attempt=1)
    client.put_object(Bucket="results", Key="clean/else.csv", Body=b"")
    with pytest.raises(RequestError, match="no shard of this run has written it"):
        put(store, "else.csv", path, shard=1, attempt=2)
    stored = client.get_object(Bucket="results", Key="clean/part.csv")["Body"].read()
    assert stored == b"another"


def test_checkpoints_of_shards_are_stored_fetched_and_removed(store, tmp_path):
    path, fetched = tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"
    path.write_bytes(b"packed")
    store.put_checkpoint(12, path)
    assert store.checkpoints() == {12}
    store.fetch_checkpoint(12, fetched)
    assert fetched.read_bytes() == b"packed"
    for _ in range(2):
        store.remove_checkpoint(12)
    assert store.checkpoints() == set()
    with pytest.raises(NotFoundError):
        store.fetch_checkpoint(12, fetched)


def test_the_first_plan_of_a_job_remains(jobs, store, tmp_path):
    assert jobs.put_plan(header(), ["a"]) == header()
    assert jobs.put_plan(header(shards=2), ["a", "b"]) == header()
    store.fetch_plan(tmp_path / "plan")
    assert (tmp_path / "plan").read_text() == f"{header().as_line()}\na\n"
    later = header(started_at=AT.replace(year=2031), shards=2)
    assert jobs.put_plan(later, ["a", "b"]) == later


def test_an_output_belongs_to_one_job(jobs):
    assert jobs.problem_with_output(OUTPUT) == ""
    for _ in range(2):
        assert jobs.claim_output(OUTPUT, job="job", started_at=AT) == ""
    assert jobs.problem_with_output(OUTPUT) == ""  # when the call is repeated
    assert "the results of the run job" in jobs.claim_output(OUTPUT, job="other", started_at=AT)


def test_an_output_with_data_is_refused(jobs, client):
    client.put_object(Bucket="results", Key="clean/", Body=b"")  # a marker, as the console makes
    assert jobs.problem_with_output(OUTPUT) == ""
    client.put_object(Bucket="results", Key="clean/a.csv", Body=b"a")
    assert "holds data already ('a.csv')" in jobs.problem_with_output(OUTPUT)


def test_an_output_in_the_own_bucket_has_its_prefix(jobs):
    assert "choose s3://own/outputs/" in jobs.problem_with_output("s3://own/runs/a/")
    assert jobs.problem_with_output("s3://own/outputs/a/") == ""


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("AccessDenied", 403, "`writable_buckets` and deploy again, or choose a prefix below s3:"),
        ("NoSuchBucket", 404, "there is no bucket results; check the name"),
        ("PermanentRedirect", 301, "is in another region than this deployment"),
    ],
)
def test_an_output_that_cannot_be_used_is_refused_with_the_remedy(
    jobs, client, code, status, message
):
    with Stubber(client) as stub:
        stub.add_client_error("list_objects_v2", code, http_status_code=status)
        if code == "AccessDenied":  # another caller may be permitted
            with pytest.raises(ForbiddenDataError, match=message):
                jobs.problem_with_output(OUTPUT)
        else:
            assert message in jobs.problem_with_output(OUTPUT)
        stub.add_client_error("put_object", code, http_status_code=status)
        assert message in jobs.claim_output(OUTPUT, job="job", started_at=AT)
