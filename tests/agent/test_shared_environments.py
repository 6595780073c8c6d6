"""Environments that all runs share: stored beside the trainer, verified, and never replaced."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.prepare.built_files import group_of
from runctl.agent.prepare.committing import EnvironmentCommitter
from runctl.agent.prepare.dependencies import find_dependencies
from runctl.agent.prepare.environment import Environments
from runctl.agent.prepare.environment_commit import CommitJob, commit
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.prepare.shared_environments import Accepted, SharedEnvironments
from runctl.aws.environments import EnvironmentStore, RunGeneration
from runctl.checkpoint import upload
from runctl.model import identity
from runctl.model.errors import CheckpointError, TransientError
from runctl.model.stored_environment import StoredEnvironment
from tests.agent.machine import Cloud
from tests.agent.packages import make_wheel
from tests.agent.test_dependencies import OFFLINE, plant, says
from tests.agent.test_environment import make_environments

pytestmark = pytest.mark.slow

LINES = f"{OFFLINE}-f %s\nmypkg\n"
Tree = dict[str, tuple[str, int, bytes]]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    make_wheel(folder, "mypkg", "1.0", requires="helper")
    make_wheel(folder, "helper", "1.0")
    return folder


@pytest.fixture
def project(tmp_path: Path, index: Path) -> Path:
    return plant(tmp_path / "project", {"requirements.txt": LINES % index})


def build(cloud: Cloud, root: Path, project: Path, **options: Any) -> tuple[Environments, Path]:
    environments = make_environments(cloud, root, **options)
    target = environments.prepare(find_dependencies(project, "train.py"))
    return environments, target


def store_of(cloud: Cloud) -> EnvironmentStore:
    return EnvironmentStore(cloud.clients["s3"], bucket=cloud.name)


def tree_of(folder: Path) -> Tree:
    """Return kind, mode and content of everything in a folder, except for the agent's own mark."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        info = path.lstat()
        if name == "ready" or name.endswith("__pycache__") or path.suffix == ".pyc":
            continue
        if stat.S_ISLNK(info.st_mode):
            found[name] = ("link", 0, os.fsencode(path.readlink()))
        elif stat.S_ISDIR(info.st_mode):
            found[name] = ("dir", 0, b"")
        else:
            found[name] = ("file", stat.S_IMODE(info.st_mode), path.read_bytes())
    return found


def test_environment_is_restored_exactly_with_links_and_valid_bytecode(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(120)
    assert len((built / "ready").read_text()) == 64
    _, restored = build(cloud, tmp_path / "two", project)
    assert tree_of(restored) == tree_of(built)
    assert (restored / "bin/python").is_symlink()
    compiled = list(restored.rglob("*.pyc"))
    assert {path.name.partition(".")[0] for path in compiled} >= {"mypkg", "helper"}
    before = {path: path.read_bytes() for path in compiled}
    program = "import mypkg, helper; print(mypkg.__file__)"
    done = subprocess.run(
        [restored / "bin/python", "-v", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(restored))
    assert f"matches {restored}" in done.stderr  # "code object … matches": not compiled again
    assert {path: path.read_bytes() for path in compiled} == before


def test_what_a_run_stores_in_its_area_is_used_by_runs_of_that_area_only(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    environments = make_environments(cloud, tmp_path / "one")
    environments.keep_in("run-1")
    built = environments.prepare(find_dependencies(project, "train.py"))
    environments.finish(120)
    digest = (built / "ready").read_text()
    assert {key.split("/")[1] for key in cloud.keys("environments/")} == {"own"}
    store = store_of(cloud)
    for area in ("", "run-2"):
        other = SharedEnvironments(store, "run-2", tmp_path)
        other.keep_in(area)
        assert other.accepted(built.name, 0) is None
        assert not other.is_stored(built.name)
    # The next attempt of the run fetches it; nothing of it comes from what all runs share.
    again = SharedEnvironments(store, "run-1", tmp_path)
    again.keep_in("run-1")
    accepted = again.accepted(built.name, 0)
    assert accepted is not None
    assert accepted.digest == digest
    again.fetch(built.name, accepted, tmp_path / "two")
    assert tree_of(tmp_path / "two") == tree_of(built)


def test_a_run_with_an_area_uses_a_shared_environment_and_records_it_for_itself(
    cloud: Cloud, tmp_path: Path
) -> None:
    store, name = store_of(cloud), "a" * 64
    store.make_current(name, StoredEnvironment(manifest="b" * 64))
    run = SharedEnvironments(store, "run-1", tmp_path)
    run.keep_in("run-1")
    store.of_area("run-1").make_current(name, StoredEnvironment(manifest="c" * 64))
    accepted = run.accepted(name, 0)
    assert accepted is not None
    assert accepted.digest == "b" * 64
    assert accepted.store is store
    assert cloud.keys("environments/runs/") == [f"environments/runs/run-1/0000/{name}.json"]
    # What it recorded stays, also once new runs find another one.
    cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=identity.current_environment_key(name))
    again = run.accepted(name, 0)
    assert again is not None
    assert again.digest == "b" * 64


def test_machine_that_has_the_environment_fetches_nothing(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(120)
    for key in cloud.keys(identity.ENVIRONMENT_PARTS):
        cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=key)
    _, again = build(cloud, tmp_path / "one", project, there=True, run_id="run-2")
    assert again == built
    assert (
        store_of(cloud).used_by(RunGeneration(run_id="run-2"), built.name)
        == (built / "ready").read_text()
    )


def test_second_machine_leaves_what_the_first_has_stored(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    first, built = build(cloud, tmp_path / "one", project)
    first.finish(0)  # not stored yet, so the second one builds it, too
    second, _ = build(cloud, tmp_path / "two", project)
    second.finish(120)
    before = stored(cloud)
    assert before
    commit(store_of(cloud), job_for(cloud, built))
    assert stored(cloud) == before


def stored(cloud: Cloud) -> dict[str, Any]:
    pages = cloud.clients["s3"].get_paginator("list_objects_v2")
    return {
        item["Key"]: (item["ETag"], item["LastModified"])
        for page in pages.paginate(Bucket=cloud.name, Prefix="environments/")
        for item in page.get("Contents", ())
    }


def job_for(cloud: Cloud, built: Path, fingerprint: str = "") -> CommitJob:
    return CommitJob(
        run_id="run-1",
        generation=0,
        fingerprint=fingerprint or built.name,
        source="requirements.txt",
        target=str(built),
        scratch=str(built.parent / "scratch"),
        python=sys.executable,
        built_ns=(built / "ready").lstat().st_ctime_ns,
        bucket=cloud.name,
        region="us-east-1",
    )


class Interrupted(EnvironmentStore):
    """A store that fails after a number of parts, and counts those that are sent."""

    def __init__(self, cloud: Cloud, *, after: int) -> None:
        super().__init__(cloud.clients["s3"], bucket=cloud.name)
        self.left = after
        self.sent = 0

    def put_part(self, part: Any, content: Any) -> None:
        if self.left == 0:
            raise TransientError("the machine is taken")
        self.left -= 1
        self.sent += 1
        super().put_part(part, content)


def test_next_attempt_continues_an_interrupted_commit(
    cloud: Cloud, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "THREADS", 1)
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(0)
    for key in cloud.keys("environments/"):
        cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=key)
    broken = Interrupted(cloud, after=2)
    with pytest.raises(TransientError):
        commit(broken, job_for(cloud, built))
    assert broken.sent == 2
    assert cloud.keys("environments/current/") == cloud.keys("environments/manifests/") == []
    other, rebuilt = build(cloud, tmp_path / "two", project)  # another machine
    other.finish(0)
    left = Interrupted(cloud, after=1000)
    commit(left, job_for(cloud, rebuilt))
    assert 0 < left.sent == len(cloud.keys(identity.ENVIRONMENT_PARTS)) - 2
    current = store_of(cloud).current(built.name)
    assert current is not None
    assert current.packages == (("helper", "1.0"), ("mypkg", "1.0"))


def test_same_packages_make_the_same_manifest_on_every_machine(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    digests = set()
    for name in ("one", "two"):
        environments, built = build(cloud, tmp_path / name, project, run_id=name)
        environments.finish(120)
        digests.add((built / "ready").read_text())
        for key in cloud.keys("environments/"):
            cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=key)
    assert len(digests) == 1


def test_versions_of_an_environment_share_the_parts_of_what_did_not_change(
    cloud: Cloud, tmp_path: Path, project: Path, index: Path
) -> None:
    environments, _ = build(cloud, tmp_path / "one", project)
    environments.finish(120)
    before = set(cloud.keys(identity.ENVIRONMENT_PARTS))
    make_wheel(index, "helper", "2.0")
    plant(project, {"requirements.txt": LINES % index + "helper==2.0\n"})
    environments, _ = build(cloud, tmp_path / "two", project)
    environments.finish(120)
    after = set(cloud.keys(identity.ENVIRONMENT_PARTS))
    # The other version's files, and those of the environment itself: a script, the Python's path.
    assert len(after - before) <= 2 < len(after)


def test_what_a_trainer_changes_is_not_stored(cloud: Cloud, tmp_path: Path, project: Path) -> None:
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(0)
    job = job_for(cloud, built, "a" * 64)
    module = next(built.glob("lib/python3*/site-packages/mypkg.py"))
    info = module.stat()
    cache = module.parent / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / f"mypkg.{sys.implementation.cache_tag}.pyc").write_bytes(b"planted")
    commit(store_of(cloud), job)
    module.write_text(module.read_text().replace("1.0", "6.6"))
    os.utime(module, ns=(info.st_atime_ns, info.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(CheckpointError, match=r"mypkg\.py was changed after the environment"):
        commit(store_of(cloud), job_for_before(job))
    assert len(cloud.keys(identity.current_environment_key("b" * 64))) == 0
    second = make_environments(cloud, tmp_path / "two")
    target = tmp_path / "two/restored"
    current = store_of(cloud).current("a" * 64)
    assert current is not None
    accepted = Accepted(digest=current.manifest, store=store_of(cloud))
    second._shared.fetch("a" * 64, accepted, target)
    assert says(target, "mypkg") == ["mypkg 1.0"]


def job_for_before(job: CommitJob) -> CommitJob:
    return CommitJob(**{**vars(job), "fingerprint": "b" * 64})


@pytest.mark.parametrize("damage", ["a manifest", "the marker", "everything"])
def test_environment_that_cannot_be_used_is_built_from_the_pinned_versions(
    cloud: Cloud, tmp_path: Path, project: Path, index: Path, damage: str
) -> None:
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(120)
    pinned = installed_versions(built, attempt=1)
    prefix = {
        "a manifest": "environments/manifests/",
        "the marker": "environments/current/",
        "everything": "environments/",
    }[damage]
    for key in cloud.keys(prefix):
        if damage == "everything":
            cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=key)
        else:
            cloud.clients["s3"].put_object(Bucket=cloud.name, Key=key, Body=b"{}")
    make_wheel(index, "mypkg", "2.0")
    other = make_environments(cloud, tmp_path / "two", run_id="run-2")
    again = other.prepare(find_dependencies(project, "train.py"), pinned)
    other.finish(120)
    assert says(again, "mypkg", "helper") == ["mypkg 1.0", "helper 1.0"]
    # The third machine of the run needs no index, as if nothing had happened.
    index.rename(tmp_path / "gone")
    third = make_environments(cloud, tmp_path / "three", run_id="run-2")
    restored = third.prepare(find_dependencies(project, "train.py"), pinned)
    assert says(restored, "mypkg") == ["mypkg 1.0"]


def test_part_with_other_bytes_is_never_used(cloud: Cloud, tmp_path: Path, project: Path) -> None:
    environments, _ = build(cloud, tmp_path / "one", project)
    environments.finish(120)
    for key in cloud.keys(identity.ENVIRONMENT_PARTS):
        body = cloud.read(key).replace(b"mypkg", b"virus")
        cloud.clients["s3"].put_object(Bucket=cloud.name, Key=key, Body=body)
    other, built = build(cloud, tmp_path / "two", project, run_id="run-2")
    other.finish(0)
    assert says(built, "mypkg") == ["mypkg 1.0"]
    assert not (tmp_path / "two/environments/incoming").exists()


EVIL = "import pathlib; pathlib.Path({mark!r}).touch()\n"


def test_what_another_instance_plants_never_runs_in_the_next_run(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    """The attack of a hostile library that may write below `environments/`."""
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(120)
    mark = tmp_path / "attacked"
    evil = tmp_path / "evil"
    site = next(built.glob("lib/python3*/site-packages")).relative_to(built)
    (evil / site).mkdir(parents=True)
    (evil / site / "evil.pth").write_text(EVIL.format(mark=str(mark)))
    (evil / "ready").touch()
    store = store_of(cloud)
    commit(store, job_for(cloud, evil, "e" * 64))
    planted = store.current("e" * 64)
    assert planted is not None
    manifest = store.get_manifest("e" * 64, planted.manifest)
    # What the bucket permits: new objects. It refuses the marker, since there is one.
    store.put_manifest(built.name, manifest)
    assert not store.make_current(built.name, StoredEnvironment(manifest=planted.manifest))
    # And if the bucket permitted more: the run accepts only what it has recorded.
    real = (built / "ready").read_text()
    first = make_environments(cloud, tmp_path / "two", run_id="run-2")
    first.prepare(find_dependencies(project, "train.py"))
    for key, body in (
        (identity.current_environment_key(built.name), StoredEnvironment(manifest="e" * 64)),
        (identity.environment_manifest_key(built.name, real), manifest),
    ):
        cloud.clients["s3"].put_object(Bucket=cloud.name, Key=key, Body=body.as_json())
    second = make_environments(cloud, tmp_path / "three", run_id="run-2")
    target = second.prepare(find_dependencies(project, "train.py"))
    second.finish(120)
    assert says(target, "mypkg") == ["mypkg 1.0"]
    assert not list(target.rglob("evil.pth"))
    assert not mark.exists()


def test_path_file_of_a_package_does_not_run_while_modules_are_compiled(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(0)
    mark = tmp_path / "ran"
    site = next(built.glob("lib/python3*/site-packages"))
    (site / "evil.pth").write_text(EVIL.format(mark=str(mark)))
    (site / "sitecustomize.py").write_text(EVIL.format(mark=str(mark)))
    (built / "ready").touch()
    for key in cloud.keys("environments/"):
        cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=key)
    again = make_environments(cloud, tmp_path / "one", there=True)
    again.prepare(find_dependencies(project, "train.py"))
    again.finish(120)
    assert cloud.keys("environments/current/")  # it was compiled and stored
    assert not mark.exists()
    subprocess.run([built / "bin/python", "-c", ""], check=True)
    assert mark.exists()  # the attack itself works


def test_commit_gives_way_as_soon_as_the_attempt_is_to_end(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    environments, built = build(cloud, tmp_path / "one", project)
    environments.finish(0)
    for key in cloud.keys("environments/"):
        cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=key)
    committer = EnvironmentCommitter(environ={"PATH": os.environ["PATH"]}, is_ending=lambda: True)
    committer.start(job_for(cloud, built))
    process = committer._process
    assert process is not None
    process.wait(120)
    assert process.returncode == -signal.SIGKILL
    committer.stop(within=0)
    assert cloud.keys("environments/") == []


def test_packages_are_stored_apart_so_that_they_are_shared() -> None:
    site = "lib/python3.11/site-packages"
    for name in ("numpy/core/a.py", "numpy-2.1.0.dist-info/METADATA", "numpy.libs/b.so"):
        assert group_of(f"{site}/{name}") == "numpy"
    assert group_of(f"{site}/scipy/a.py") == "scipy"
    assert group_of(f"{site}/_cffi.so") == "cffi"
    assert group_of("bin/python") == group_of("pyvenv.cfg") == ""


@pytest.mark.parametrize("uv", [None, Path("/bin/false"), Path("/no/such/uv")])
def test_pip_installs_where_uv_cannot(
    cloud: Cloud, tmp_path: Path, project: Path, uv: Path | None
) -> None:
    environments, built = build(cloud, tmp_path / "one", project, uv=uv)
    environments.finish(0)
    assert says(built, "mypkg", "helper") == ["mypkg 1.0", "helper 1.0"]
    assert (built / "bin/mypkg").exists()
    shown = (tmp_path / "one/log").read_text().splitlines()
    assert any("Successfully installed" in line for line in shown)


def test_screen_shows_few_lines_and_the_log_has_all(
    cloud: Cloud, tmp_path: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    environments, _ = build(cloud, tmp_path / "one", project)
    environments.finish(0)
    shown = (tmp_path / "one/log").read_text().splitlines()
    assert shown[0] == "environment of requirements.txt: building it"
    assert shown[-1].startswith("environment of requirements.txt: built with 2 packages in ")
    assert [line.split()[0] for line in shown[1:-1]] == ["Resolved", "Prepared", "Installed"]
    assert "+ mypkg==1.0" in caplog.text
