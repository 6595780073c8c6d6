"""Manifests written by somebody else: nothing outside the folder is touched or sent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runctl.beneath.changes import clear
from runctl.checkpoint.candidates import keys_before
from runctl.checkpoint.placing import place
from runctl.checkpoint.retention import remove_old_checkpoints
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import CheckpointError, DamagedCheckpointError
from tests.agent.machine import Cloud
from tests.checkpoint.test_checkpoints import Folder

Document = dict[str, Any]
CONTENT = b"ssh-rsa of an attacker"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TIB = 2**40


@pytest.fixture
def folder(cloud: Cloud, tmp_path: Path) -> Folder:
    return Folder(cloud, tmp_path / "machine")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a file that only its owner may read or change."""
    path = tmp_path / "home/.bashrc"
    path.parent.mkdir()
    path.write_bytes(b"of the victim")
    path.chmod(0o600)
    return path


def entry(path: str, kind: str = "file", **fields: Any) -> Document:
    made = {"path": path, "kind": kind, "mode": 0o644, "mtime_ns": 1, "parts": [], **fields}
    if kind == "file" and "parts" not in fields:
        made |= {"parts": [0], "size_bytes": len(CONTENT)}
    return made


def plant(folder: Folder, *entries: Document, **fields: Any) -> str:
    """Store a manifest and its part, as anybody with write access to the bucket could."""
    document = {
        "version": 2, "run_id": "run-1", "step": 1, "save": 1, "attempt": 1, "taken_at": "now",
        "metadata": {}, "entries": list(entries),
        "parts": [{"sha256": DIGEST, "size_bytes": len(CONTENT)}], **fields,
    }  # fmt: skip
    folder.store.put_part(Part(sha256=DIGEST, size_bytes=len(CONTENT)), [CONTENT])
    key = identity.manifest_key("run-1", save=1, attempt=1)
    body = json.dumps(document).encode()
    folder.cloud.clients["s3"].put_object(Bucket=folder.cloud.name, Key=key, Body=body)
    return key


def state(victim: Path) -> tuple[object, ...]:
    """Return what an attack would change in the victim's file and folder."""
    info = victim.stat()
    return (
        victim.read_bytes(),
        stat.S_IMODE(info.st_mode),
        info.st_nlink,
        info.st_mtime_ns,
        sorted(path.name for path in victim.parent.iterdir()),
    )


def refuse(folder: Folder, key: str, match: str) -> None:
    target = folder.place / "restored"
    with pytest.raises(DamagedCheckpointError, match=match):
        folder.restore(key)
    assert not target.exists() or not list(target.iterdir())


def link_then_file(home: Path) -> tuple[Document, ...]:
    return entry("rc", "link", target=str(home / ".bashrc")), entry("rc")


def file_below_link(home: Path) -> tuple[Document, ...]:
    return entry("home", "link", target=str(home)), entry("home/.bashrc")


def hard_link_through_link(home: Path) -> tuple[Document, ...]:
    link = entry("home", "link", target=str(home))
    return link, entry("key", "hard", target="home/.bashrc", mode=0o666)


def hard_link_to_link(home: Path) -> tuple[Document, ...]:
    link = entry("rc", "link", target=str(home / ".bashrc"))
    return link, entry("key", "hard", target="rc", mode=0o666)


def the_same_name_in_other_characters(home: Path) -> tuple[Document, ...]:
    link = entry("\udcc3\udca9", "link", target=str(home / ".bashrc"))
    return link, entry("é")


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        (link_then_file, "twice"),
        (file_below_link, "not a folder"),
        (hard_link_through_link, "hard link"),
        (hard_link_to_link, "hard link"),
        (the_same_name_in_other_characters, "other characters"),
    ],
)
def test_no_entry_reaches_the_target_of_a_link_in_the_manifest(
    folder: Folder, victim: Path, attack: Callable[[Path], tuple[Document, ...]], match: str
) -> None:
    before = state(victim)
    refuse(folder, plant(folder, *attack(victim.parent)), match)
    assert state(victim) == before


@pytest.mark.parametrize(
    "digest",
    [
        "../../../../home/.bashrc",
        "a HTTP/1.1\r\nx-amz-copy-source: other/secret\r\nx: ",
        DIGEST.upper(),
        DIGEST[:-1],
        DIGEST + "\n",
        "",
        3,
        None,
    ],
)
def test_invalid_digest_names_no_file_and_reaches_no_request(
    folder: Folder, victim: Path, digest: object
) -> None:
    before = state(victim)
    asked: list[str] = []
    client = folder.cloud.clients["s3"]
    client.meta.events.register(
        "before-send.s3.GetObject", lambda request, **_: asked.append(request.url)
    )
    key = plant(folder, entry("a"), parts=[{"sha256": digest, "size_bytes": len(CONTENT)}])
    refuse(folder, key, "sha256")
    bundled = entry("a", parts=[0], size_bytes=3, offset=0, sha256=digest)
    refuse(folder, plant(folder, bundled), "sha256")
    assert all("/manifests/" in url for url in asked)
    assert state(victim) == before


@pytest.mark.parametrize("digest", ["../x", "a\r\nb: c", DIGEST.upper(), DIGEST + "\n"])
def test_store_requests_no_part_whose_name_is_not_a_digest(folder: Folder, digest: str) -> None:
    part = Part(sha256=digest, size_bytes=1)
    with pytest.raises(DamagedCheckpointError, match="not the name of a part"):
        folder.store.get_part(part, lambda _offset, _piece: None)
    with pytest.raises(DamagedCheckpointError, match="not the name of a part"):
        folder.store.has_part(part)


@pytest.mark.parametrize(
    "path", ["/a", "../a", "a/../../b", "a//b", "./a", "a/.", "a/", "", "a\0b", "."]
)
def test_path_that_is_not_plain_is_refused(folder: Folder, path: str) -> None:
    refuse(folder, plant(folder, entry(path)), "not a plain path")


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_setuid_setgid_and_sticky_bits_are_not_restored(folder: Folder, kind: str) -> None:
    restored = folder.restore(plant(folder, entry("a", kind, mode=0o7755)))
    assert stat.S_IMODE((restored / "a").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "fields",
    [
        {"size_bytes": 8 * TIB},
        {"size_bytes": len(CONTENT) - 1},
        {"size_bytes": 8 * TIB, "parts": []},
        {"size_bytes": 8 * TIB, "parts": [0], "offset": 0, "sha256": DIGEST},
        {"size_bytes": 4, "parts": [0], "offset": len(CONTENT) - 3, "sha256": DIGEST},
        {"size_bytes": 4, "parts": [0], "offset": -1, "sha256": DIGEST},
        {"size_bytes": 2 * len(CONTENT), "parts": [0, 0], "offset": 0, "sha256": DIGEST},
        {"size_bytes": -1, "parts": []},
        {"size_bytes": True},
        {"parts": [1]},
        {"parts": [-1]},
        {"mode": "0644"},
        {"mtime_ns": 10**30},
        {"mtime_ns": float("nan")},
        {"kind": "fifo"},
        {"kind": ["file"]},
        {"kind": "dir", "size_bytes": 0, "parts": [0]},
        {"kind": "link", "parts": [], "target": ""},
        {"kind": "link", "parts": [], "target": "a\0b"},
        {"kind": "link", "parts": [], "target": "\ud800"},
        {"path": "\ud800"},
        {"path": 3},
        {"path": "a" * 256},
        {"path": "a/" * 100 + "a"},
        {"path": "é" * 128},
    ],
)
def test_impossible_entry_is_refused(folder: Folder, fields: Document) -> None:
    refuse(folder, plant(folder, {**entry("a"), **fields}), "manifest cannot be read")


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1, 8 * TIB])
def test_part_whose_size_differs_from_the_stated_one_is_refused(folder: Folder, size: int) -> None:
    file = entry("a", parts=[0], size_bytes=size)
    key = plant(folder, file, parts=[{"sha256": DIGEST, "size_bytes": size}])
    refuse(folder, key, "damaged|size|bytes|whole number")


def test_deeply_nested_json_counts_as_a_damaged_manifest(folder: Folder) -> None:
    for text in (b"[" * 100_000, b'{"version":2,"metadata":' + b'{"a":' * 100_000):
        key = plant(folder)
        folder.cloud.clients["s3"].put_object(Bucket=folder.cloud.name, Key=key, Body=text)
        refuse(folder, key, "nested|cannot be read")


def test_too_many_entries_and_parts_are_refused() -> None:
    head = b'{"version":2,"run_id":"r","step":1,"attempt":1,"taken_at":"","parts":[],"entries":['
    many = head + b",".join([b'{"parts":[]}'] * 1_000_001) + b"]}"
    with pytest.raises(DamagedCheckpointError, match="more than 1,000,000"):
        Manifest.from_json(many)
    parts = head + b'{"parts":[' + b",".join([b"0"] * 2_000_001) + b"]}]}"
    with pytest.raises(DamagedCheckpointError, match="more than 2,000,000"):
        Manifest.from_json(parts)


def test_manifest_that_is_too_large_is_not_read_into_memory(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.aws.checkpoints.MAX_MANIFEST_BYTES", 100)
    refuse(folder, plant(folder, entry("a")), "more than the limit of 100")
    manifest = Manifest(run_id="run-1", step=1, attempt=1, taken_at="n" * 100, entries=())
    with pytest.raises(Exception, match="pack small files into archives"):
        folder.store.put_manifest(manifest)


def test_links_are_restored_as_links_even_if_they_point_outside(
    folder: Folder, victim: Path
) -> None:
    (folder.path / "run").mkdir()
    (folder.path / "latest").symlink_to("run")
    (folder.path / "data").symlink_to(victim.parent)
    before = state(victim)
    restored = folder.restore(folder.save(1))
    assert (restored / "latest").readlink() == Path("run")
    assert (restored / "data").readlink() == victim.parent
    assert folder.restore(folder.save(2)) == restored  # over what is there by now
    assert state(victim) == before


def test_link_in_place_of_the_folder_is_replaced_and_not_followed(
    folder: Folder, victim: Path
) -> None:
    (folder.path / "a").write_bytes(b"1")
    key = folder.save(1)
    before = state(victim)
    (folder.place / "restored").symlink_to(victim.parent)
    restored = folder.restore(key)
    assert not restored.is_symlink()
    assert [path.name for path in restored.iterdir()] == ["a"]
    assert state(victim) == before


@pytest.mark.parametrize(
    ("path", "kind"),
    [("planted", "file"), ("planted/a", "file"), ("planted/a", "hard"), ("planted", "dir")],
)
@pytest.mark.parametrize("is_copied", [False, True])
def test_existing_link_in_the_folder_is_not_followed(
    tmp_path: Path, victim: Path, path: str, kind: str, *, is_copied: bool
) -> None:
    """As if a file system took two names for the same, or somebody added a link meanwhile."""
    before = state(victim)
    target, incoming = tmp_path / "target", tmp_path / "incoming"
    clear(target)
    incoming.mkdir()
    (incoming / "content").write_bytes(CONTENT)
    (incoming / "twin").write_bytes(CONTENT)
    is_file = path == "planted" and kind == "file"
    (target / "planted").symlink_to(victim if is_file else victim.parent)
    made = Entry(path=path, kind=kind, mode=0o666, mtime_ns=1, target="a")
    # With a twin after it, the file is copied; otherwise it is moved.
    first, last = (Entry(path=name, kind="file", mode=0o644, mtime_ns=1) for name in ("a", "z"))
    contents = {"a": "content", path: "twin", "z": "twin" if is_copied else "content"}
    with contextlib.suppress(DamagedCheckpointError):  # or it replaces the link
        place((first, made, last), target, incoming, lambda one: contents[one.path])
    assert state(victim) == before


def test_existing_link_in_the_download_folder_is_not_followed(folder: Folder, victim: Path) -> None:
    (folder.path / "a").write_bytes(b"1")
    (folder.path / "large").write_bytes(os.urandom(300_000))
    key = folder.save(1)
    before = state(victim)
    incoming = folder.place / "incoming"
    incoming.mkdir()
    for path in (folder.path / "a", folder.path / "large"):
        (incoming / hashlib.sha256(path.read_bytes()).hexdigest()).symlink_to(victim)
    restored = folder.restore(key)
    assert (restored / "a").read_bytes() == b"1"
    assert state(victim) == before


@pytest.mark.parametrize("previous", [3, "abc", {"a": 1}, [[1], 3, None], [3, "x"] * 5000])
def test_only_valid_names_of_other_checkpoints_are_read(folder: Folder, previous: object) -> None:
    key = plant(folder, entry("a"), metadata={"previous": previous, "previous_steps": previous})
    manifest = folder.store.get_manifest(key)
    assert all(isinstance(key, str) for key in keys_before(manifest))
    assert len(keys_before(manifest)) <= 2000


@pytest.mark.parametrize(
    "key",
    ["runs/other/checkpoints/manifests/s1.json", "code/a", "../run-1", "runs/run-1/outputs/a"],
)
def test_manifest_of_another_run_is_never_read(folder: Folder, key: str) -> None:
    with pytest.raises(DamagedCheckpointError, match="not a manifest of run-1"):
        folder.store.get_manifest(key)


def test_unknown_names_among_the_manifests_do_not_stop_retention(folder: Folder) -> None:
    (folder.path / "a").write_bytes(b"1")
    old, new = folder.save(1), folder.save(2)
    strange = identity.manifest_prefix("run-1") + "evil.json"
    folder.cloud.clients["s3"].put_object(Bucket=folder.cloud.name, Key=strange, Body=b"{")
    remove_old_checkpoints(folder.store, [new], folder.manifest, attempt=1)
    assert folder.store.manifest_keys() == sorted([new, strange], reverse=True)
    assert old not in folder.store.manifest_keys()


def test_folder_too_deep_to_be_restored_is_not_saved(folder: Folder) -> None:
    deep = folder.path / ("a/" * 98 + "a")
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"1")
    restored = folder.restore(folder.save(1))
    assert (restored / ("a/" * 99 + "file")).read_bytes() == b"1"
    (deep / "a").mkdir()
    with pytest.raises(CheckpointError, match=r"more than 99 levels, .* outside the"):
        folder.save(2)
