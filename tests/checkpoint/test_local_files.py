"""Files that a machine has already are not fetched, if they have the checkpoint's content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.chunks import CHUNK_BYTES
from runctl.checkpoint.file_fetcher import FileFetcher
from runctl.model.checkpoint_entry import Part
from tests.agent.machine import Cloud
from tests.checkpoint.test_checkpoints import Folder, described

LARGE = 300 * 1024  # in a part of its own, unlike small files


class Counting(CheckpointStore):
    """A store that counts what is fetched from it."""

    def get_part(self, part: Part, write: Callable[..., None]) -> None:
        self.fetched = [*getattr(self, "fetched", []), part.sha256]
        super().get_part(part, write)


class Machine:
    """A machine with the files of a run's checkpoint in its folder."""

    def __init__(self, cloud: Cloud, place: Path) -> None:
        self.folder = Folder(cloud, place)
        path = self.folder.path
        (path / "step-1").mkdir()
        (path / "step-1/model.bin").write_bytes(os.urandom(CHUNK_BYTES + LARGE))
        (path / "step-1/optimizer.bin").write_bytes(os.urandom(LARGE))
        (path / "step-1/rng.json").write_bytes(b"{}")
        (path / "latest").write_bytes(b"step-1")
        self.key = self.folder.save(1)
        shutil.rmtree(place / "pins")
        self.path = path
        self.store = Counting(cloud.clients["s3"], bucket=cloud.name, run_id="run-1")

    def restore(self) -> FileFetcher:
        fetcher = FileFetcher(self.store, self.folder.place / "incoming")
        manifest = self.store.get_manifest(self.key)
        fetcher.fetch_files(manifest, reuse=self.path)
        fetcher.put_in_place(manifest, self.path)
        return fetcher


@pytest.fixture
def machine(cloud: Cloud, tmp_path: Path) -> Machine:
    return Machine(cloud, tmp_path / "machine")


def test_nothing_is_fetched_that_is_in_the_folder(machine: Machine) -> None:
    before = described(machine.path)
    (machine.path / "stray").write_bytes(b"of the lost attempt")
    assert machine.restore().fetched_bytes == 0
    assert described(machine.path) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\0" * LARGE),
        lambda path: path.write_bytes(b"\0" * (LARGE - 1)),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("model.bin")),
    ],
)
def test_only_a_file_that_differs_is_fetched(
    machine: Machine, damage: Callable[[Path], object]
) -> None:
    before = described(machine.path)
    damage(machine.path / "step-1/optimizer.bin")
    assert machine.restore().fetched_bytes == LARGE
    assert described(machine.path) == before


def test_a_file_with_the_right_size_and_time_but_other_bytes_is_fetched(machine: Machine) -> None:
    path = machine.path / "step-1/optimizer.bin"
    before, info = described(machine.path), path.stat()
    with path.open("r+b") as stream:
        stream.write(b"torn")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert machine.restore().fetched_bytes == LARGE
    assert described(machine.path) == before


def test_a_file_that_others_have_under_another_name_is_copied(machine: Machine) -> None:
    elsewhere = machine.folder.place / "elsewhere"
    os.link(machine.path / "step-1/model.bin", elsewhere)
    os.utime(elsewhere, ns=(5, 5))
    elsewhere.chmod(0o640)
    assert machine.restore().fetched_bytes == 0
    assert elsewhere.stat().st_mtime_ns == 5
    assert elsewhere.stat().st_nlink == 1


def test_a_large_file_is_not_copied(machine: Machine) -> None:
    before = (machine.path / "step-1/model.bin").stat().st_ino
    machine.restore()
    assert (machine.path / "step-1/model.bin").stat().st_ino == before


def test_a_link_in_the_folder_is_not_followed(machine: Machine) -> None:
    outside = machine.folder.place / "outside"
    (machine.path / "step-1").rename(outside)
    (machine.path / "step-1").symlink_to(outside)
    assert machine.restore().fetched_bytes > CHUNK_BYTES
    assert (outside / "model.bin").stat().st_nlink == 1


def test_a_folder_that_is_missing_has_nothing_to_reuse(machine: Machine) -> None:
    before = described(machine.path)
    machine.path.rename(machine.folder.place / "gone")
    assert machine.restore().fetched_bytes > CHUNK_BYTES
    assert described(machine.path) == before
