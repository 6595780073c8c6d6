"""Names, pools, outcomes, manifests and errors."""

import hashlib
import inspect
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model import errors, identity
from runctl.model.checkpoint import MANIFEST_VERSION, MAX_STEP, Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import (
    DamagedCheckpointError,
    NewerCheckpointError,
    RequestError,
)
from runctl.model.machine import Machine
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import MachineKind, Pool, machine_kind

run_ids = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)


launches = st.fixed_dictionaries(
    {
        "deployment": st.sampled_from(["runctl", "second"]),
        "run_id": run_ids,
        "attempt": st.integers(1, 9999),
        "launch_try": st.integers(1, 99),
    }
)


@given(one=launches, other=launches)
def test_a_client_token_is_unique_to_its_launch_and_fits(one, other):
    tokens = identity.client_token(**one), identity.client_token(**other)
    assert (tokens[0] == tokens[1]) == (one == other)
    assert len(tokens[0]) == 64


@given(one=run_ids, other=run_ids)
def test_no_object_of_a_run_is_below_the_prefix_of_another(one, other):
    prefix = identity.run_prefix(one)
    keys = [
        identity.part_key(other, "ab" * 32),
        identity.manifest_key(other, save=1, attempt=1),
        identity.output_prefix(other),
        identity.metrics_prefix(other, 1, 0),
        identity.boot_log_key(other, 1, 0),
    ]
    assert all(key.startswith(prefix) == (one == other) for key in keys)


@given(
    low=st.tuples(st.integers(0, 10**9 - 1), st.integers(1, 9999)),
    high=st.tuples(st.integers(0, 10**9 - 1), st.integers(1, 9999)),
)
def test_manifest_keys_sort_by_save_and_attempt(low, high):
    first, second = (identity.manifest_key("r", save=s, attempt=a) for s, a in (low, high))
    assert (first < second) == (low < high)


def test_manifest_keys_of_older_versions_sort_below():
    older = identity.manifest_prefix("r") + "999999999999-0001.json"
    newer = [
        identity.manifest_key("r", save=0, attempt=1, revision=revision) for revision in (0, 1, 2)
    ]
    assert sorted([*newer[::-1], older]) == [older, *newer]


@given(numbers=st.lists(st.integers(1, 9999)))
def test_attempt_keys_sort_by_number(numbers):
    by_key = sorted(numbers, key=lambda number: identity.attempt_key("r", number)["sk"])
    assert by_key == sorted(numbers)


@pytest.mark.parametrize(
    ("instance_type", "kind"),
    [
        ("m5.large", MachineKind.X86_CPU),
        ("c7i-flex.large", MachineKind.X86_CPU),
        ("m6a.large", MachineKind.X86_CPU),
        ("u-6tb1.112xlarge", MachineKind.X86_CPU),
        ("g4dn.xlarge", MachineKind.X86_GPU),
        ("g5.xlarge", MachineKind.X86_GPU),
        ("g6e.xlarge", MachineKind.X86_GPU),
        ("gr6.4xlarge", MachineKind.X86_GPU),
        ("p4d.24xlarge", MachineKind.X86_GPU),
        ("p5en.48xlarge", MachineKind.X86_GPU),
        ("m7g.large", MachineKind.ARM_CPU),
        ("c7gn.large", MachineKind.ARM_CPU),
        ("t4g.small", MachineKind.ARM_CPU),
        ("a1.large", MachineKind.ARM_CPU),
        ("x2gd.large", MachineKind.ARM_CPU),
    ],
)
def test_a_type_names_its_machine(instance_type, kind):
    assert machine_kind(instance_type) is kind


def test_a_machine_without_an_image_is_refused():
    with pytest.raises(ValueError, match=r"g5g\.xlarge is an arm64 GPU"):
        machine_kind("g5g.xlarge")


def test_a_pool_is_read_back_as_it_was_written():
    pool = Pool("m5.large", "us-east-1a", "spot")
    assert Pool.parse(str(pool)) == pool


@pytest.mark.parametrize("text", ["", "m5.large", "a/b", "a//c", "a/b/c/d"])
def test_an_invalid_pool_is_refused(text):
    with pytest.raises(ValueError, match="is not a pool"):
        Pool.parse(text)


@given(
    outcome=st.builds(
        Outcome,
        kind=st.sampled_from(OutcomeKind).filter(lambda kind: kind is not OutcomeKind.UNKNOWN),
        reason=st.text(),
        exit_code=st.none() | st.integers(),
        step=st.none() | st.integers(),
    )
)
def test_an_outcome_is_read_back_and_fields_of_a_newer_peer_are_ignored(outcome):
    assert Outcome.from_document({**outcome.as_document(), "later": 1}) == outcome


@pytest.mark.parametrize(
    "document", [{}, {"kind": None}, {"kind": "exploded"}, {"kind": "unknown"}]
)
def test_an_invalid_outcome_document_is_refused(document):
    with pytest.raises(RequestError, match="is not a valid outcome"):
        Outcome.from_document(document)


names = st.text(min_size=1, max_size=20).filter(
    lambda name: "/" not in name and "\0" not in name and name not in {".", ".."}
)


@st.composite
def trees(draw):
    """Entries of a folder as a trainer may leave it."""
    found = []
    folders = [""]
    for name in draw(st.lists(names, max_size=5, unique=True)):
        path = draw(st.sampled_from(folders)) + name
        parts = draw(st.lists(some_parts, max_size=3))
        common = {"path": path, "mode": draw(st.integers(0, 0o777)), "mtime_ns": draw(sizes)}
        files = [entry.path for entry in found if entry.kind == "file"]
        kind = draw(st.sampled_from(["file", "bundled", "dir", "link", "hard"]))
        if kind == "dir":
            folders.append(f"{path}/")
            found.append(Entry(kind="dir", **common))
        elif kind == "link":
            found.append(Entry(kind="link", target=draw(names), **common))
        elif kind == "hard" and files:
            found.append(Entry(kind="hard", target=draw(st.sampled_from(files)), **common))
        elif kind == "bundled" and parts:
            offset = draw(st.integers(0, parts[0].size_bytes))
            size = draw(st.integers(0, parts[0].size_bytes - offset))
            found.append(
                Entry(
                    kind="file",
                    parts=(parts[0],),
                    offset=offset,
                    size_bytes=size,
                    sha256=hashlib.sha256(ascii(path).encode()).hexdigest(),
                    **common,
                )
            )
        else:
            size = sum(part.size_bytes for part in parts)
            found.append(Entry(kind="file", parts=tuple(parts), size_bytes=size, **common))
    return tuple(found)


sizes = st.integers(0, 2**30)
# A digest stands for one content, so for one size.
some_parts = st.binary(min_size=32, max_size=32).map(
    lambda digest: Part(sha256=digest.hex(), size_bytes=int.from_bytes(digest[:4], "big") // 4)
)
manifests = st.builds(
    Manifest,
    run_id=run_ids,
    step=st.integers(0, MAX_STEP),
    attempt=st.integers(1, 2**63 - 1),
    taken_at=st.just("2030-01-01T00:00:00+00:00"),
    entries=trees(),
    metadata=st.dictionaries(st.text(), st.integers() | st.text()),
)


@given(manifest=manifests)
def test_a_manifest_is_read_back_as_it_was_written(manifest):
    assert Manifest.from_json(manifest.as_json()) == manifest


@given(manifest=manifests, at=st.integers(0), byte=st.integers(0, 255))
def test_a_damaged_manifest_is_reported_or_still_readable(manifest, at, byte):
    text = bytearray(manifest.as_json())
    text[at % len(text)] = byte
    try:
        Manifest.from_json(bytes(text))
    except DamagedCheckpointError as exc:
        assert "manifest" in str(exc)  # noqa: PT017 - no other error may come


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"3", b'{"version": "1"}'])
def test_an_invalid_manifest_is_reported(text):
    with pytest.raises(DamagedCheckpointError):
        Manifest.from_json(text)


def test_a_manifest_of_a_newer_runctl_requires_an_upgrade():
    text = f'{{"version": {MANIFEST_VERSION + 1}}}'.encode()
    with pytest.raises(NewerCheckpointError, match="upgrade"):
        Manifest.from_json(text)


def test_the_size_counts_files_once():
    made = [
        Entry(path=kind, kind=kind, mode=0, mtime_ns=0, size_bytes=5)
        for kind in ("file", "dir", "hard", "link")
    ]
    manifest = Manifest(run_id="r", step=1, attempt=1, taken_at="", entries=tuple(made))
    assert manifest.size_bytes == 5


@pytest.mark.parametrize(
    ("state", "live"),
    [("pending", True), ("running", True), ("shutting-down", False), ("terminated", False)],
)
def test_a_machine_is_live_until_it_shuts_down(state, live):
    machine = Machine(instance_id="i", state=state, pool=Pool("a", "b", "spot"))
    assert machine.is_live is live
    assert machine.attempt is None


def test_every_error_is_in_the_tree_and_has_a_true_message():
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.RunctlError)
    ]
    for error in classes:
        assert error.__name__ in errors.__doc__
        assert error.__doc__.endswith(".")
