"""A listing is split into shards: all files, each in one, always in the same way."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.input_sources import StoredObject
from runctl.policy.sharding import divide, plan_shards, tolerated

sizes = st.lists(st.integers(min_value=0, max_value=50), max_size=60)


def listing(sizes):
    return [StoredObject(f"raw/{number:03d}", size, "e") for number, size in enumerate(sizes)]


@given(sizes, st.integers(1, 9), st.integers(0, 100))
def test_every_file_is_in_one_shard_in_the_order_of_the_keys(sizes, most_files, most_bytes):
    found = listing(sizes)
    shards = list(plan_shards(found, most_files=most_files, most_bytes=most_bytes))
    assert [file for shard in shards for file in shard.files] == found
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert shards == list(plan_shards(iter(found), most_files=most_files, most_bytes=most_bytes))


@given(sizes, st.integers(1, 9), st.integers(1, 100))
def test_no_shard_exceeds_its_limits_but_a_file_that_does_so_alone(sizes, most_files, most_bytes):
    for shard in plan_shards(listing(sizes), most_files=most_files, most_bytes=most_bytes):
        assert 1 <= len(shard.files) <= most_files
        assert shard.size_bytes <= most_bytes or len(shard.files) == 1


@given(sizes, st.integers(1, 100))
def test_shards_are_filled(sizes, most_bytes):
    shards = list(plan_shards(listing(sizes), most_files=1000, most_bytes=most_bytes))
    for shard, after in pairwise(shards):
        assert shard.size_bytes + after.files[0].size_bytes > most_bytes


@pytest.mark.parametrize(
    ("shards", "part", "most"),
    [(100, 0.0, 0), (100, 0.29, 29), (3, 0.5, 1), (3, 1.0, 3), (1, 0.99, 0), (10, 0.1, 1)],
)
def test_the_tolerated_number_is_rounded_down(shards, part, most):
    assert tolerated(shards, part=part) == most


@given(st.integers(1, 5000), st.integers(1, 100))
def test_batches_cover_all_shards_evenly(shards, instances):
    batches = divide(shards, instances=instances)
    numbers = [
        number for batch in batches for number in range(batch.first, batch.first + batch.count)
    ]
    assert numbers == list(range(shards))
    assert [batch.number for batch in batches] == list(range(1, len(batches) + 1))
    assert len(batches) <= 4 * instances
    counts = {batch.count for batch in batches}
    assert min(counts) >= 1
    assert max(counts) - min(counts) <= 1
