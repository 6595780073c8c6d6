"""Which stored parts may be removed."""

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from runctl.policy.garbage import MAX_SAVE_TIME, StoredPart, find_garbage

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
parts = st.builds(
    StoredPart,
    sha256=st.sampled_from("abcdef"),
    size_bytes=st.integers(0, 100),
    stored_at=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3)).map(
        lambda age: NOW - age
    ),
)


@given(st.lists(parts), st.sets(st.sampled_from("abcdef")))
def test_only_old_parts_without_a_manifest_are_removed(
    stored: list[StoredPart], needed: set[str]
) -> None:
    found = find_garbage(stored, needed, has_live_attempt=False, now=NOW)
    for part in stored:
        orphan = part.sha256 not in needed and NOW - part.stored_at >= MAX_SAVE_TIME
        assert (part in found) == orphan


@given(st.lists(parts), st.sets(st.sampled_from("abcdef")))
def test_nothing_is_removed_while_an_attempt_is_alive(
    stored: list[StoredPart], needed: set[str]
) -> None:
    assert find_garbage(stored, needed, has_live_attempt=True, now=NOW) == []
