"""Which stored environments and parts nothing needs any more."""

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from runctl.model import identity
from runctl.policy.environments import (
    MARGIN,
    EnvironmentObject,
    find_old_archives,
    find_orphans,
    find_unused,
    find_unused_areas,
    take_stock,
)

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
KEEP = timedelta(days=30)
A, B = "a" * 64, "b" * 64
MANIFEST = "c" * 64


def stored(key: str, days: float, size: int = 1) -> EnvironmentObject:
    return EnvironmentObject(key=key, size_bytes=size, stored_at=NOW - timedelta(days=days))


def environment(fingerprint: str, built: float, *uses: float) -> list[EnvironmentObject]:
    return [
        stored(identity.current_environment_key(fingerprint), built),
        stored(identity.environment_manifest_key(fingerprint, MANIFEST), built),
        *(
            stored(
                identity.environment_use_key(fingerprint, (NOW - timedelta(days=days)).date()), days
            )
            for days in uses
        ),
    ]


def unused(objects: list[EnvironmentObject], *live: str, keep: timedelta = KEEP) -> list[str]:
    found = find_unused(take_stock(objects), set(live), keep=keep, now=NOW)
    return [traces.fingerprint for traces in found]


def test_the_last_use_decides_and_not_the_age():
    objects = [*environment(A, 400, 300, 29), *environment(B, 400, 31)]
    assert unused(objects) == [B]
    assert unused(objects, keep=timedelta(days=20)) == [B, A]


def test_one_that_was_built_in_advance_is_kept_as_long_as_one_that_was_used():
    assert unused(environment(A, 29)) == []
    assert unused(environment(A, 30)) == [A]


def test_what_a_live_run_recorded_is_needed_however_long_ago_that_was():
    record = stored(identity.used_environment_key("run-1", A, 2), 100)
    objects = [*environment(A, 100, 100), record]
    assert unused(objects, "another") == [A]
    assert unused(objects, "run-1") == []
    (traces,) = take_stock(objects).environments.values()
    assert (traces.used_by, traces.record_keys) == ({"run-1"}, [record.key])
    assert (traces.is_current, traces.manifests) == (True, [MANIFEST])


def test_records_outlive_their_environment_by_the_same_time():
    records = [
        stored(identity.used_environment_key("old", A), 31),
        stored(identity.used_environment_key("new", B), 29),
    ]
    assert unused(records) == [A]


def own(name: str, days: float, *, run_id: str = "run-1") -> list[EnvironmentObject]:
    return [
        stored(identity.current_environment_key(A, area=name), days),
        stored(f"{identity.environments_prefix(name)}parts/{B}", days, 5),
        stored(identity.used_environment_key(run_id, A, area=name), days),
    ]


def test_the_environments_of_runs_that_share_none_are_counted_apart_and_go_as_a_whole():
    stock = take_stock([*own("run-1", 31), *own("g", 40, run_id="g-7"), *own("new", 29)])
    assert (stock.size_bytes, stock.parts, dict(stock.environments)) == (21, (), {})
    assert {name: area.size_bytes for name, area in stock.areas.items()} == {
        "run-1": 7, "g": 7, "new": 7
    }  # fmt: skip

    def names(*live: str) -> list[str]:
        return [area.name for area in find_unused_areas(stock, set(live), keep=KEEP, now=NOW)]

    assert names() == ["run-1", "g"]
    # That of a run, and that of its group, stay until it has ended.
    assert names("run-1") == ["g"]
    assert names("g-7") == ["run-1"]


def test_objects_of_unknown_form_are_counted_and_never_removed():
    objects = [
        stored(f"environments/{name}", 1000, 10)
        for name in ("", "new/x", "current/x", f"manifests/{A[:9]}/{B}.json", "runs/x", "own/")
    ]
    stock = take_stock(objects)
    assert (stock.size_bytes, stock.parts, stock.archives) == (60, (), ())
    assert not stock.environments


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, MANIFEST]), st.floats(0, 10)), unique_by=lambda row: row[0]
    ),
    st.sets(st.sampled_from([A, B])),
)
def test_only_parts_that_are_old_and_named_by_no_manifest_are_orphans(rows, needed):
    parts = [stored(f"{identity.ENVIRONMENT_PARTS}{name}", days) for name, days in rows]
    found = find_orphans(take_stock(parts).parts, needed, now=NOW)
    unnamed = [part for part, (name, _) in zip(parts, rows, strict=True) if name not in needed]
    assert set(found.old) == {part for part in unnamed if NOW - part.stored_at >= MARGIN}
    assert set(found.recent) == set(unnamed) - set(found.old)


def test_archives_of_the_version_before_are_removed_after_the_margin():
    objects = [stored(f"environments/{A}.tar.gz", 4, 100), stored(f"environments/{B}.tar.gz", 2)]
    stock = take_stock(objects)
    assert find_old_archives(stock.archives, now=NOW) == [objects[0]]
    assert stock.usd_per_month == 101 / 1e9 * 0.023
