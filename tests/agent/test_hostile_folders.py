"""Tests: a trainer that replaces its outputs and messages shows the agent nothing of others.

Where names are exchanged in a tight loop, another process does it with the rights of the trainer,
while the code of the agent reads with the rights of root.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.gang.pulses import LAYOUT, Pulses
from runctl.agent.instance.archive import CODE, pack
from runctl.agent.instance.forgetting import forget_run
from runctl.agent.instance.paths import Paths
from runctl.agent.prepare.built_files import BuiltFiles
from runctl.agent.prepare.curves import restore_curves
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.processing.shard_folder import ShardFolder
from runctl.agent.reporting.folder_shipper import FolderShipper
from runctl.agent.reporting.growing_file import GrowingFile
from runctl.agent.reporting.outputs import upload_outputs
from runctl.agent.reporting.result_metrics import find_metrics
from runctl.agent.runtime.command_line import _words_of
from runctl.aws.blobs import Blobs
from runctl.aws.outputs import OutputStore
from runctl.beneath.folder import Folder
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import CheckpointError, RequestError
from runctl.model.result_metrics import BadMetricsError
from runctl.model.shard import Shard
from tests.agent.machine import Cloud
from tests.beneath.swapping import CANARY, give_to_trainer, hide_canary, needs_root, swapped

ROUNDS = 200
OWN = b'{"loss": 1}'


class Kept:
    """Outputs in memory: every content that was ever stored under a name."""

    def __init__(self) -> None:
        self.stored: dict[str, set[bytes]] = {}

    def put(self, name: str, file: OpenedFile, *, attempt: int) -> bool:
        del attempt
        self.stored.setdefault(name, set()).add(file.read(0, 1000))
        return True

    @property
    def contents(self) -> set[bytes]:
        """Everything that was stored."""
        return set().union(*self.stored.values())


class Scene:
    """A trainer's folder with one file, and the two names that the trainer exchanges."""

    def __init__(self, place: Path, what: str, name: str = "metrics.json") -> None:
        self.canary = hide_canary(place / "root")
        (self.canary.parent / name).write_bytes(CANARY)
        self.path = place / "trainer"
        (self.path / "sub").mkdir(parents=True)
        for path in (self.path / name, self.path / "sub" / name):
            path.write_bytes(OWN)
        evil = self.path / "evil"
        if what == "pipe":
            os.mkfifo(evil)
        else:
            evil.symlink_to(self.canary if what == "file" else self.canary.parent)
        self.names = (self.path / ("sub" if what == "folder" else name)), evil
        give_to_trainer(self.path)

    def repeat(self, work: Callable[[], object]) -> None:
        """Work while the names are exchanged."""
        with swapped(*self.names):
            for _ in range(ROUNDS):
                work()


@pytest.fixture(params=["file", "folder", "pipe"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """Return a scene of each kind."""
    return Scene(tmp_path, request.param)


@needs_root
def test_outputs_never_have_the_canary(scene: Scene) -> None:
    kept = Kept()
    scene.repeat(lambda: upload_outputs(kept, scene.path, attempt=1))
    assert kept.contents == {OWN}


@needs_root
def test_curves_never_have_the_canary(scene: Scene) -> None:
    kept = Kept()
    scene.repeat(lambda: FolderShipper(kept, scene.path, "tensorboard", attempt=1).ship())
    assert kept.contents == {OWN}


@needs_root
def test_result_metrics_are_never_those_of_another_file(scene: Scene) -> None:
    found, errors = [], list[str]()

    def read() -> None:
        try:
            found.append(find_metrics(scene.path))
        except BadMetricsError as exc:
            errors.append(str(exc))

    scene.repeat(read)
    assert {tuple(each.items()) for each in found} <= {(("loss", 1),), ()}
    assert "canary" not in "".join(errors)


def test_links_between_outputs_count_and_links_out_of_them_are_left_out(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canary = hide_canary(tmp_path / "root")
    folder = tmp_path / "output"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/model").write_bytes(b"weights")
    (folder / "best").symlink_to("sub/model")
    (folder / "absolute").symlink_to(folder / "sub/model")
    (folder / "again").symlink_to("sub")
    (folder / "stolen").symlink_to(canary)
    (folder / "indirect").symlink_to("up/root/shadow")
    (folder / "up").symlink_to("..")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    outputs = OutputStore(cloud.clients["s3"], bucket=cloud.name, run_id="run-1")
    assert upload_outputs(outputs, folder, attempt=1) == 3
    stored = {key: cloud.read(key) for key in cloud.keys("runs/run-1/outputs/")}
    assert set(stored.values()) == {b"weights"}
    assert {key.rpartition("outputs/")[2] for key in stored} == {"absolute", "best", "sub/model"}
    for name in ("stolen", "indirect"):
        assert f"the output {name} is a link out of the folder" in caplog.text


def test_output_that_no_object_can_hold_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    with (folder / "sparse").open("wb") as stream:
        stream.truncate(8 << 40)
    (folder / "zz").write_bytes(b"small")
    kept = Kept()
    assert upload_outputs(kept, folder, attempt=1) == 1
    assert kept.stored == {"zz": {b"small"}}
    assert "sparse is larger than an object can be" in caplog.text


def test_deep_trees_and_odd_names_of_outputs_harm_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "new\nline").write_bytes(b"1")
    at = os.open(folder, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    kept = Kept()
    assert upload_outputs(kept, folder, attempt=1) == 1
    paths = Paths(root=tmp_path / "machine", state_dir=tmp_path)
    forget_run(paths)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_messages_of_the_trainer_are_files_or_nothing(tmp_path: Path, kind: str) -> None:
    """Metrics, saves and pulses: a pipe does not block, and a link is not followed."""
    canary = hide_canary(tmp_path / "root")
    pulses = tmp_path / "pulses"
    pulses.mkdir()
    (canary.parent / "pulse").write_bytes(LAYOUT.pack(7, 7, 1.0, 1.0))
    for path, target in (
        (tmp_path / "metrics.jsonl", canary),
        (pulses / "rank-0", canary.parent / "pulse"),
    ):
        if kind == "link":
            path.symlink_to(target)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
    assert GrowingFile(tmp_path / "metrics.jsonl").read() == b""
    assert Pulses(pulses)._counts(0) == (0, 0, 0.0, 0.0)


def _shard(tmp_path: Path) -> ShardFolder:
    folder = ShardFolder(shard=Shard(number=3, files=()), root=tmp_path / "00000003")
    folder.make()
    return folder


@needs_root
@pytest.mark.parametrize("what", ["file", "folder", "pipe"])
def test_results_of_shards_never_have_the_canary(tmp_path: Path, what: str) -> None:
    scene = Scene(tmp_path, what)
    shard = _shard(tmp_path)
    shard.outputs.rmdir()
    scene.path.rename(shard.outputs)
    scene.names = tuple(shard.outputs / name.name for name in scene.names)  # type: ignore[assignment]
    seen: set[bytes] = set()

    def read() -> None:
        try:
            for _, file in shard.written():
                seen.add(file.read(0, 1000))
        except (RequestError, FileNotFoundError):
            return

    scene.repeat(read)
    assert seen <= {OWN}  # what is not a plain file ends the shard


@needs_root
@pytest.mark.parametrize("what", ["file", "folder", "pipe"])
def test_packed_checkpoints_of_shards_never_have_the_canary(tmp_path: Path, what: str) -> None:
    scene = Scene(tmp_path, what)
    archive = tmp_path / "packed.tar.gz"
    contents: set[bytes] = set()

    def work() -> None:
        pack(archive, scene.path)
        with tarfile.open(archive) as packed:
            for member in packed:
                if member.isreg():
                    content = packed.extractfile(member)
                    assert content is not None
                    contents.add(content.read())
                assert member.isreg() or member.isdir() or member.issym() or member.islnk()

    scene.repeat(work)
    assert contents == {OWN}


def test_packed_checkpoint_is_restored_with_links_and_without_touching_their_targets(
    tmp_path: Path,
) -> None:
    """The script of another shard may have put links into the folder meanwhile."""
    canary = hide_canary(tmp_path / "root")
    shard = _shard(tmp_path)
    (shard.checkpoint / "step").mkdir()
    (shard.checkpoint / "step/a").write_bytes(b"a")
    (shard.checkpoint / "again").hardlink_to(shard.checkpoint / "step/a")
    (shard.checkpoint / "latest").symlink_to("step/a")
    pack(shard.archive, shard.checkpoint)
    shutil.rmtree(shard.checkpoint / "step")
    (shard.checkpoint / "step").symlink_to(canary.parent)
    shard.unpack_checkpoint(CODE)
    assert (shard.checkpoint / "step/a").read_bytes() == b"a"
    assert (shard.checkpoint / "again").samefile(shard.checkpoint / "step/a")
    assert (shard.checkpoint / "latest").readlink() == Path("step/a")
    assert [path.name for path in canary.parent.iterdir()] == ["shadow"]
    assert not (shard.root / "incoming").exists()


@pytest.mark.parametrize("clear", [ShardFolder.clear_outputs, ShardFolder.clear_checkpoint])
def test_clearing_a_shards_folders_follows_no_link(
    tmp_path: Path, clear: Callable[[ShardFolder], None]
) -> None:
    canary = hide_canary(tmp_path / "root")
    shard = _shard(tmp_path)
    for folder in (shard.outputs, shard.checkpoint):
        folder.rmdir()
        folder.symlink_to(canary.parent)
    clear(shard)
    assert canary.read_bytes() == CANARY
    shard.remove()
    assert not shard.root.exists()
    assert canary.read_bytes() == CANARY


def test_curves_are_put_back_without_following_a_link(cloud: Cloud, tmp_path: Path) -> None:
    canary = hide_canary(tmp_path / "root")
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    (folder / "train").symlink_to(canary.parent)
    (folder / ".events.1.incoming").symlink_to(canary)
    for name in ("events.1", "train/shadow"):
        key = f"runs/run-1/outputs/tensorboard/{name}"
        cloud.clients["s3"].put_object(Bucket=cloud.name, Key=key, Body=b"curve")
    restore_curves(Blobs(cloud.clients["s3"], bucket=cloud.name), "run-1", folder)
    assert (folder / "events.1").read_bytes() == b"curve"
    assert canary.read_bytes() == CANARY
    assert [path.name for path in canary.parent.iterdir()] == ["shadow"]


@needs_root
@pytest.mark.parametrize("what", ["file", "folder"])
def test_stored_environments_never_have_the_canary(tmp_path: Path, what: str) -> None:
    """The trainer runs while its environment is committed, and may replace every module."""
    scene = Scene(tmp_path / "scene", what, name="module.py")
    site = tmp_path / "environment/lib"
    site.parent.mkdir()
    (scene.canary.parent / "module.py").write_text("SECRET = 'canary'\n")
    for path in (scene.path / "module.py", scene.path / "sub/module.py"):
        path.write_text("OWN = 1\n")
    if what == "file":
        scene.names[1].unlink()
        scene.names[1].symlink_to(scene.canary.parent / "module.py")
    give_to_trainer(scene.path)
    scene.path.rename(site)
    scene.names = tuple(site / name.name for name in scene.names)  # type: ignore[assignment]
    seen: set[bytes] = set()
    compiled: set[bool] = set()
    with swapped(*scene.names):
        for number in range(30):
            with Folder.opened(site.parent) as folder:
                scratch = tmp_path / f"scratch-{number}"
                files = BuiltFiles(folder, scratch, built_ns=1 << 62)
                try:
                    files.scan()
                except (CheckpointError, FileNotFoundError, OSError):
                    continue
                files.compile(Path(sys.executable))
                for path, state in files.view.items():
                    if state.kind == "file":
                        try:
                            descriptor = files.open(path, state)
                        except FileNotFoundError:
                            continue
                        with os.fdopen(descriptor, "rb") as stream:
                            content = stream.read()
                        seen.add(content if path.endswith(".py") else b"OWN = 1\n")
                        compiled.add(b"canary" in content)
    assert seen == {b"OWN = 1\n"}
    assert compiled == {False}


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_records_of_packages_are_those_of_the_environment(tmp_path: Path, kind: str) -> None:
    """A build, or the trainer, may have replaced them."""
    secret = hide_canary(tmp_path / "root").parent / "METADATA"
    secret.write_text("Metadata-Version: 2.1\nName: secret\nVersion: 1\n")
    site = tmp_path / "environment/lib/python3.11/site-packages"
    for name in ("own", "evil"):
        record = site / f"{name}-2.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2\n")
    evil = site / "evil-2.dist-info"
    (evil / "METADATA").unlink()
    if kind == "link":
        (evil / "METADATA").symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(evil / "METADATA")
    else:
        evil.rmdir()
        evil.symlink_to(secret.parent)
    found = installed_versions(tmp_path / "environment", attempt=1)
    assert [(package.name, package.version) for package in found.packages] == [("own", "2")]


def test_script_that_its_program_has_replaced_is_neither_read_nor_made_executable(
    tmp_path: Path,
) -> None:
    """The next program of the attempt starts from the same folder."""
    canary = hide_canary(tmp_path / "root")
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src/run").write_text("#!/usr/bin/env bash\n")
    (project / "run").symlink_to("src/run")
    words: dict[str, Any] = {"project": project, "python": "python", "world": None}
    assert _words_of("run", **words) == [str(project / "run")]
    assert os.access(project / "src/run", os.X_OK)
    (project / "run").unlink()
    (project / "run").symlink_to(canary)
    with pytest.raises(OSError, match="a link leads to"):
        _words_of("run", **words)
    assert canary.stat().st_mode & 0o777 == 0o600
