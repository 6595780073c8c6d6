"""Plans and results of shards are read back as they were written, or refused."""

from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.errors import RequestError
from runctl.model.input_sources import StoredObject
from runctl.model.shard import (
    DONE,
    PlanHeader,
    Shard,
    ShardOutput,
    ShardResult,
    read_result,
)
from runctl.model.shard_progress import ShardProgress

AT = datetime(2030, 1, 1, tzinfo=timezone.utc)
FILES = (StoredObject("raw/ä b\n.csv", 7, '"abc"'), StoredObject("raw/c.csv", 0, '"d-2"'))


def test_a_shard_is_one_line_of_the_plan():
    shard = Shard(number=3, files=FILES)
    line = shard.as_line()
    assert "\n" not in line
    read = Shard.from_line(line)
    assert (read, read.size_bytes) == (shard, 7)


def test_the_header_is_read_back():
    header = PlanHeader(
        run_id="job",
        started_at=AT,
        input="s3://b/raw/",
        output="s3://b/out/",
        shards=2,
        files=3,
        size_bytes=10,
        largest_bytes=7,
    )
    assert PlanHeader.from_line(header.as_line()) == header


@pytest.mark.parametrize("line", ["", "{}", "[1]", '{"shard": 1, "files": [["a"]]}', "{" * 9000])
def test_a_damaged_plan_is_refused(line):
    with pytest.raises(RequestError, match="is damaged"):
        Shard.from_line(line)
    with pytest.raises(RequestError, match="is damaged"):
        PlanHeader.from_line(line)


def test_a_result_has_what_became_of_each_file():
    line = ShardResult(
        shard=3,
        status=DONE,
        run_id="job",
        attempt=2,
        tries=1,
        seconds=1.23456,
        inputs=FILES,
        ended_at=AT,
        outputs=(ShardOutput(name="3.jsonl", size_bytes=5, sha256="00"),),
    ).as_line()
    result = read_result(line)
    assert (result["shard"], result["attempt"], result["status"]) == (3, 2, "done")
    assert [each["key"] for each in result["inputs"]] == [found.key for found in FILES]
    assert result["outputs"] == [{"name": "3.jsonl", "size_bytes": 5, "sha256": "00"}]
    with pytest.raises(RequestError, match="is damaged"):
        read_result(line[:-5])


def test_the_remaining_time_follows_from_the_rate():
    progress = ShardProgress(total=100, done=30, failed=10, found=20, per_second=2.0)
    assert progress.left == timedelta(seconds=30)
    assert progress.has_advanced
    assert ShardProgress.from_document(progress.as_document()) == progress
    assert ShardProgress(total=5).left is None
    assert not ShardProgress(total=5, done=2, found=2).has_advanced


@pytest.mark.parametrize(
    "document", [{}, {"total": 0}, {"total": "5"}, {"total": 5, "done": -1}, {"total": True}]
)
def test_progress_of_another_version_is_no_progress(document):
    assert ShardProgress.from_document(document) is None
