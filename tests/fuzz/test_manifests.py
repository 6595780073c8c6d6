"""Manifests from anybody: restored below the folder, or refused with one of our errors."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError
from hypothesis import example, given
from hypothesis import strategies as st

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.candidates import PREVIOUS, keys_before
from runctl.checkpoint.known_files import KnownFiles
from runctl.checkpoint.restore import Fetched, Restorer
from runctl.checkpoint.save_history import PREVIOUS_STEPS, SaveHistory
from runctl.cli.commands.checkpoints.list import _table
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.errors import RunctlError
from tests.fuzz.budget import fuzz, fuzzed, nothing_changes
from tests.fuzz.hostile import NUMBERS, VALUES, paths

PLACE = Path(tempfile.mkdtemp(prefix="runctl-fuzz-"))
OUTSIDE = PLACE / "outside"
KEY = identity.manifest_key("run-1", save=1, attempt=1)
CONTENTS = [b"", b"one", b"a second one", bytes(70_000)]
PARTS = [{"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for data in CONTENTS]
PATHS = paths(str(OUTSIDE))


class Client:
    """The part of an S3 client that reading needs, at the speed of memory."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects
        nothing = SimpleNamespace(register=lambda *_: None, unregister=lambda *_: None)
        self.meta = SimpleNamespace(events=nothing)

    def get_paginator(self, _: str) -> SimpleNamespace:
        listed = [{"Key": key} for key in self._objects]
        return SimpleNamespace(paginate=lambda **_: iter([{"Contents": listed}]))

    def get_object(self, *, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        if Key not in self._objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": ""}}, "GetObject")
        body = self._objects[Key]
        return {"ContentLength": len(body), "Body": io.BytesIO(body)}


def store_of(manifest: bytes) -> CheckpointStore:
    objects = {
        identity.part_key("run-1", str(part["sha256"])): content
        for part, content in zip(PARTS, CONTENTS, strict=True)
    }
    return CheckpointStore(Client({**objects, KEY: manifest}), bucket="b", run_id="run-1")


def entry(path: str, kind: str = "file", **fields: Any) -> dict[str, Any]:
    return {"path": path, "kind": kind, "mode": 0o644, "mtime_ns": 1, "parts": [], **fields}


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """Return an entry, often valid except for its path, so that it is processed further."""
    kind = draw(st.sampled_from(["file", "file", "bundled", "dir", "link", "hard"]))
    made = entry(draw(PATHS), "file" if kind == "bundled" else kind)
    made["mode"] = draw(st.integers(0, 0o7777))
    if kind == "bundled":
        place = draw(st.integers(0, 3))
        begin = draw(st.integers(0, len(CONTENTS[place])))
        content = CONTENTS[place][begin : begin + draw(st.integers(0, 9))]
        made |= {
            "parts": [place], "offset": begin, "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
    elif kind == "file":
        made["parts"] = draw(st.lists(st.integers(0, 3), max_size=3))
        made["size_bytes"] = sum(len(CONTENTS[place]) for place in made["parts"])
    elif kind != "dir":
        made["target"] = draw(PATHS)
    if draw(st.integers(0, 9)) == 0:
        made[draw(st.sampled_from(sorted({*made, "offset", "sha256", "other"})))] = draw(VALUES)
    return made


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """Return the text of a manifest."""
    document: dict[str, Any] = {
        "version": 2, "run_id": "run-1", "step": 1, "save": 1, "attempt": 1, "taken_at": "now",
        "metadata": {PREVIOUS: draw(VALUES), PREVIOUS_STEPS: draw(VALUES)},
        "entries": draw(st.lists(entries(), max_size=6)), "parts": PARTS,
    }  # fmt: skip
    if draw(st.integers(0, 5)) == 0:
        document[draw(st.sampled_from(sorted(document)))] = draw(VALUES | NUMBERS)
    text = bytearray(json.dumps(document).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text)


def document(*listed: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps(
        {
            "version": 2, "run_id": "run-1", "step": 1, "attempt": 1, "taken_at": "",
            "metadata": {}, "entries": listed, "parts": PARTS, **fields,
        }
    ).encode()  # fmt: skip


@fuzzed
@example(
    document(
        entry("a", "link", target=str(OUTSIDE / "victim")), entry("a", parts=[1], size_bytes=3)
    )
)
@example(
    document(
        entry("a", "link", target=str(OUTSIDE)), entry("k", "hard", target="a/victim", mode=0o666)
    )
)
@example(document(entry("a", mode=0o6777, parts=[1], size_bytes=8 * 2**40)))
@example(document(metadata={PREVIOUS: 3, PREVIOUS_STEPS: "x"}))
@example(document(metadata={PREVIOUS: [], PREVIOUS_STEPS: [10**30]}))
@example(document(step=10**400))
@example(b"[" * 100_000)
@given(text=manifests())
def check_restore(text: bytes) -> None:
    store = store_of(text)
    target = PLACE / "work/target"
    with nothing_changes(OUTSIDE):
        try:
            fetched = Restorer(store, PLACE / "work/incoming").fetch(KEY)
            restorer = Restorer(store, PLACE / "work/incoming")
            restorer.put_in_place(restorer.fetch(KEY).manifest, target)
        except RunctlError:
            return
        finally:
            assert {path.name for path in PLACE.iterdir()} <= {"outside", "work"}
            assert {path.name for path in (PLACE / "work").glob("*")} <= {"target", "incoming"}
    assert {path.name for path in PLACE.iterdir()} == {"outside", "work"}
    _use(fetched)


def _use(fetched: Fetched) -> None:
    """Do everything else that is done with a manifest once it was read."""
    manifest = fetched.manifest
    assert Manifest.from_json(manifest.as_json()) == manifest
    assert all(isinstance(key, str) for key in keys_before(manifest))
    history = SaveHistory(None, attempt=2, keep_last=3)
    history.begin_from(fetched, {})
    assert history.step is None or history.step >= 0
    KnownFiles().note_restored({}, manifest)
    _table(
        [
            {
                "save": manifest.save, "step": manifest.step, "attempt": manifest.attempt,
                "taken_at": manifest.taken_at, "size_bytes": manifest.size_bytes, "files": 0,
                "is_newest": False, "is_proven": False, "is_suspect": False,
            }
        ],
        verified=True,
    )  # fmt: skip


def test_hostile_manifests_write_nothing_outside_and_raise_no_other_error() -> None:
    OUTSIDE.mkdir(exist_ok=True)
    (OUTSIDE / "victim").write_bytes(b"of the victim")
    (OUTSIDE / "victim").chmod(0o600)
    (PLACE / "work").mkdir(exist_ok=True)
    fuzz(check_restore)
