"""The versions that the first attempt installed stay with the run, even without the cache."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from runctl.agent.prepare.dependencies import find_dependencies
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.prepare.pinned_environments import PinnedEnvironments
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.waiting import CancellableWait
from runctl.aws.versions import VersionStore
from runctl.model.errors import RequestError
from runctl.model.versions import PackageVersion, Versions, pin_repositories
from tests.agent.machine import Cloud, wait_until
from tests.agent.packages import below, make_wheel, source_package
from tests.agent.test_dependencies import OFFLINE, plant, says
from tests.agent.test_environment import make_environments

pytestmark = pytest.mark.slow

KEY = "runs/run-1/environment/versions.json"
PROGRAM = """
    import mypkg, os, pathlib, time
    print("version", mypkg.VERSION, flush=True)
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    (folder / f"step-{os.environ['RUNCTL_ATTEMPT']}.bin").write_bytes(b"x")
    while True:
        time.sleep(0.1)
"""


def printed(machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text() if path.exists() else ""


def start_attempt(cloud: Cloud, launch, number: int):
    cloud.open_attempt(number)
    cloud.give_token(number)
    machine = launch(attempt=number)
    wait_until(lambda: "version " in printed(machine), why=machine.agent_log())
    return machine


def forget_environments(cloud: Cloud) -> None:
    for key in cloud.keys("environments/"):
        cloud.clients["s3"].delete_object(Bucket=cloud.name, Key=key)


def test_every_attempt_has_the_versions_of_the_first(cloud: Cloud, launch, tmp_path: Path) -> None:
    index = tmp_path / "index"
    make_wheel(index, "mypkg", "1.0", requires="helper")
    make_wheel(index, "helper", "1.0")
    cloud.create_run(PROGRAM, files={"requirements.txt": f"{OFFLINE}--find-links {index}\nmypkg\n"})
    first = start_attempt(cloud, launch, 1)
    assert "version 1.0" in printed(first)
    recorded = cloud.read(KEY)
    packages = {package["name"]: package["version"] for package in json.loads(recorded)["packages"]}
    assert packages == {"helper": "1.0", "mypkg": "1.0"}
    wait_until(lambda: cloud.keys("environments/current/"))
    make_wheel(index, "mypkg", "2.0")
    make_wheel(index, "helper", "2.0")
    first.end()
    second = start_attempt(cloud, launch, 2)  # from the cache
    assert "version 1.0" in printed(second)
    second.end()
    forget_environments(cloud)
    third = start_attempt(cloud, launch, 3)  # built again
    assert "version 1.0" in printed(third)
    environment = next((third.state / "environments").glob("*/ready")).parent
    assert {
        package.name: package.version
        for package in installed_versions(environment, attempt=3).packages
    } == packages
    assert cloud.read(KEY) == recorded


def test_versions_are_recorded_before_the_trainer_starts(cloud: Cloud, launch, tmp_path) -> None:
    index = tmp_path / "index"
    make_wheel(index, "mypkg", "1.0")
    cloud.create_run(PROGRAM, files={"requirements.txt": f"{OFFLINE}-f {index}\nmypkg\n"})
    cloud.open_attempt()  # no token yet
    machine = launch()
    wait_until(lambda: cloud.keys(KEY))
    machine.kill_agent()
    recorded = cloud.read(KEY)
    make_wheel(index, "mypkg", "2.0")
    machine.start()
    cloud.give_token()
    wait_until(lambda: "version 1.0" in printed(machine))
    assert cloud.read(KEY) == recorded


def test_version_that_no_longer_exists_fails_the_attempt_and_names_the_pins(
    cloud: Cloud, launch, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    old = make_wheel(index, "mypkg", "1.0")
    cloud.create_run(PROGRAM, files={"requirements.txt": f"{OFFLINE}-f {index}\nmypkg\n"})
    first = start_attempt(cloud, launch, 1)
    wait_until(lambda: cloud.keys("environments/current/"))
    first.end()
    forget_environments(cloud)
    old.unlink()
    make_wheel(index, "mypkg", "2.0")
    cloud.open_attempt(2)
    cloud.give_token(2)
    launch(attempt=2)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "the versions that attempt 1 installed on " in outcome["reason"]
    assert "choose instance types of the same kind, or start a new run" in outcome["reason"]
    assert "mypkg==1.0" in outcome["reason"]


class Repository:
    """A git repository with a package in it, whose branch moves."""

    def __init__(self, folder: Path, name: str, *, requires: str = "") -> None:
        self.folder = folder
        self._name = name
        self._requires = requires
        folder.mkdir(parents=True)
        self._git("init", "-q", "-b", "main")
        self.commit = ""

    def release(self, version: str) -> str:
        files = source_package(self._name, version, says=f"{self._name} {version}")
        if self._requires:
            files["pyproject.toml"] = files["pyproject.toml"].replace(
                "[build-system]", f'dependencies = ["{self._requires}"]\n[build-system]'
            )
            files["backend.py"] = files["backend.py"].replace(
                "    for extra, needs",
                f'    lines.append("Requires-Dist: {self._requires}")\n    for extra, needs',
            )
        plant(self.folder, files)
        self._git("add", "-A")
        self._git("-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", version)
        self.commit = self._git("rev-parse", "HEAD")
        return self.commit

    def _git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.folder), *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()


def prepared(cloud: Cloud, root: Path, project: Path, pinned: Versions | None = None) -> Path:
    environments = make_environments(cloud, root, run_id=root.name)
    environment = environments.prepare(find_dependencies(project, "train.py"), pinned)
    environments.finish(120)
    return environment


@pytest.mark.parametrize("way", ["a file", "a nested file", "an editable", "script metadata"])
def test_branch_that_moved_is_pinned_to_its_commit(cloud: Cloud, tmp_path: Path, way: str) -> None:
    repository = Repository(tmp_path / "mypkg", "mypkg")
    commit = repository.release("1.0")
    line = f"mypkg @ git+file://{repository.folder}@main"
    files = {
        "a file": {"requirements.txt": f"{OFFLINE}{line}\n"},
        "a nested file": {"requirements.txt": "-r sub/more.txt\n", "sub/more.txt": f"{line}\n"},
        "an editable": {"requirements.txt": f"-e {line.partition(' @ ')[2]}#egg=mypkg\n"},
        "script metadata": {"train.py": f"# /// script\n# dependencies = ['{line}']\n# ///\n"},
    }[way]
    project = plant(tmp_path / "project", files)
    environment = prepared(cloud, tmp_path / "one", project)
    pinned = installed_versions(environment, attempt=1)
    assert pinned.packages[0].commit == commit
    repository.release("2.0")
    again = prepared(cloud, tmp_path / "two", project, pinned)  # from the cache
    assert says(again, "mypkg") == ["mypkg 1.0"]
    forget_environments(cloud)
    again = prepared(cloud, tmp_path / "three", project, pinned)
    assert says(again, "mypkg") == ["mypkg 1.0"]
    assert installed_versions(again, attempt=3).packages[0].commit == commit
    # Another run gets what the branch is now, not what is in the cache.
    assert says(prepared(cloud, tmp_path / "four", project), "mypkg") == ["mypkg 2.0"]


def test_branch_that_a_dependency_follows_is_pinned_too(cloud: Cloud, tmp_path: Path) -> None:
    inner = Repository(tmp_path / "inner", "inner")
    inner.release("1.0")
    outer = Repository(
        tmp_path / "outer", "outer", requires=f"inner @ git+file://{inner.folder}@main"
    )
    outer.release("1.0")
    project = plant(
        tmp_path / "project", {"requirements.txt": f"outer @ git+file://{outer.folder}\n"}
    )
    pinned = installed_versions(prepared(cloud, tmp_path / "one", project), attempt=1)
    inner.release("2.0")
    outer.release("2.0")
    forget_environments(cloud)
    again = prepared(cloud, tmp_path / "two", project, pinned)
    assert says(again, "inner", "outer") == ["inner 1.0", "outer 1.0"]


def test_environment_that_another_run_cached_with_other_versions_is_not_used(
    cloud: Cloud, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    make_wheel(index, "mypkg", "1.0")
    project = plant(tmp_path / "project", {"requirements.txt": f"{OFFLINE}-f {index}\nmypkg\n"})
    pinned = installed_versions(prepared(cloud, tmp_path / "one", project), attempt=1)
    forget_environments(cloud)
    make_wheel(index, "mypkg", "2.0")
    other = prepared(cloud, tmp_path / "two", project)
    assert says(other, "mypkg") == ["mypkg 2.0"]
    again = prepared(cloud, tmp_path / "three", project, pinned)
    assert says(again, "mypkg") == ["mypkg 1.0"]
    assert len(cloud.keys("environments/current/")) == 2  # the next attempt finds its own
    index.rename(tmp_path / "gone")
    assert says(prepared(cloud, tmp_path / "four", project, pinned), "mypkg") == ["mypkg 1.0"]


def test_pinned_versions_go_with_hashes(cloud: Cloud, tmp_path: Path) -> None:
    import hashlib

    index = tmp_path / "index"
    wheel = make_wheel(index, "mypkg", "1.0")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    line = f"mypkg==1.0 \\\n    --hash=sha256:{digest}"
    project = plant(tmp_path / "project", {"requirements.txt": f"{OFFLINE}-f {index}\n{line}\n"})
    pinned = installed_versions(prepared(cloud, tmp_path / "one", project), attempt=1)
    forget_environments(cloud)
    again = prepared(cloud, tmp_path / "two", project, pinned)
    assert says(again, "mypkg") == ["mypkg 1.0"]


def test_local_packages_are_not_pinned_because_they_come_with_the_code(
    cloud: Cloud, tmp_path: Path
) -> None:
    files = {"requirements.txt": f"{OFFLINE}-e ./pkg\n", **below("pkg", source_package("pkg"))}
    project = plant(tmp_path / "project", files)
    pinned = installed_versions(prepared(cloud, tmp_path / "one", project), attempt=1)
    assert [(package.name, package.is_local) for package in pinned.packages] == [("pkg", True)]
    assert pinned.constraints() == []


def test_archive_that_changed_at_its_url_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    ours = Versions(
        attempt=1,
        python="3",
        platform="x",
        packages=(PackageVersion(name="a", version="1", url="https://x/a.zip", sha256="00"),),
    )
    theirs = Versions(
        attempt=2,
        python="3",
        platform="x",
        packages=(PackageVersion(name="a", version="1", url="https://x/a.zip", sha256="11"),),
    )
    assert len(ours.differing(theirs)) == 1
    assert ours.differing(ours) == []


def test_packages_of_only_one_platform_are_not_a_difference() -> None:
    first = Versions(
        attempt=1,
        python="3",
        platform="x",
        packages=(
            PackageVersion(name="a", version="1"),
            PackageVersion(name="cuda", version="1"),
        ),
    )
    other = Versions(
        attempt=2, python="3", platform="y", packages=(PackageVersion(name="a", version="1"),)
    )
    assert first.differing(other) == other.differing(first) == []


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        ("x @ git+https://h/x@main", "x @ git+https://h/x@c0ffee"),
        ("x @ git+https://user:token@h/x@main", "x @ git+https://user:token@h/x@c0ffee"),
        ("-e git+https://h/x@main#egg=x", "-e git+https://h/x@c0ffee#egg=x"),
        ("x @ git+ssh://git@h/x ; extra", "x @ git+ssh://git@h/x@beef ; extra"),
        ("x @ git+https://h/other@main", "x @ git+https://h/other@main"),
        ("x==1.0", "x==1.0"),
    ],
)  # fmt: skip
def test_repositories_are_pinned_in_their_original_notation(text: str, pinned: str) -> None:
    commits = {("https://h/x", "main"): "c0ffee", ("ssh://h/x", ""): "beef"}
    assert pin_repositories(text, commits) == pinned


def test_first_record_stands_and_a_damaged_one_counts_as_missing(cloud: Cloud) -> None:
    store = VersionStore(cloud.clients["s3"], bucket=cloud.name, run_id="run-1")
    assert store.read() is None
    first = Versions(
        attempt=1,
        python="3.11",
        platform="x86_64",
        packages=(PackageVersion(name="a", version="1"),),
    )
    second = Versions(attempt=2, python="3.12", platform="aarch64", packages=())
    assert store.record(first) == first
    assert store.record(second) == first == store.read()
    document = {
        **first.as_document(),
        "new": 1,
        "packages": [{"name": "a", "version": "1", "z": 2}],
    }
    cloud.clients["s3"].put_object(Bucket=cloud.name, Key=KEY, Body=json.dumps(document))
    assert store.read() == first
    for damaged in (b"", b"[]", b"{}", b'{"packages": [1]}', b"\xff"):
        cloud.clients["s3"].put_object(Bucket=cloud.name, Key=KEY, Body=damaged)
        assert store.read() is None


def test_pinned_version_that_conflicts_names_what_was_pinned(cloud: Cloud, tmp_path: Path) -> None:
    index = tmp_path / "index"
    make_wheel(index, "mypkg", "1.0")
    project = plant(tmp_path / "project", {"requirements.txt": f"{OFFLINE}-f {index}\nmypkg\n"})
    pinned = Versions(
        attempt=7,
        python="3.9.1",
        platform="riscv",
        packages=(PackageVersion(name="mypkg", version="9.0"),),
    )
    with pytest.raises(
        RequestError, match=r"that attempt 7 installed on riscv with Python 3\.9\.1"
    ):
        prepared(cloud, tmp_path / "one", project, pinned)


class QuickerAttempt(VersionStore):
    """A store in which another attempt records between our read and our record."""

    first: Versions

    def read(self) -> Versions | None:
        found = super().read()
        if found is None:
            super().record(self.first)
        return found


def test_first_attempt_to_record_its_versions_decides(cloud: Cloud, tmp_path: Path) -> None:
    index = tmp_path / "index"
    make_wheel(index, "mypkg", "1.0")
    project = plant(tmp_path / "project", {"requirements.txt": f"{OFFLINE}-f {index}\nmypkg\n"})
    store = QuickerAttempt(cloud.clients["s3"], bucket=cloud.name, run_id="run-1")
    store.first = installed_versions(prepared(cloud, tmp_path / "one", project), attempt=1)
    forget_environments(cloud)
    make_wheel(index, "mypkg", "2.0")
    environments = PinnedEnvironments(
        make_environments(cloud, tmp_path / "two"),
        store,
        attempt=2,
        wait=CancellableWait(Mailbox()),
    )
    environment = environments.prepare(find_dependencies(project, "train.py"))
    environments.finish(120)
    assert says(environment, "mypkg") == ["mypkg 1.0"]
    assert VersionStore.read(store) == store.first


def test_generation_of_an_environment_is_resolved_anew_and_then_kept(
    cloud: Cloud, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    project = plant(tmp_path / "project", {"requirements.txt": f"{OFFLINE}-f {index}\nmypkg\n"})

    def installed(name: str, run_id: str = "run-1", **how: object) -> str:
        environments = PinnedEnvironments(
            make_environments(cloud, tmp_path / name, run_id=run_id, there=True),
            VersionStore(cloud.clients["s3"], bucket=cloud.name, run_id=run_id),
            attempt=1,
            wait=CancellableWait(Mailbox()),
        )
        found = environments.prepare(find_dependencies(project, "train.py"), **how)
        environments.finish(120)
        return says(found, "mypkg")[0]

    make_wheel(index, "mypkg", "1.0")
    assert installed("a") == "mypkg 1.0"
    make_wheel(index, "mypkg", "2.0")
    assert installed("b") == "mypkg 1.0"
    assert installed("b", generation=1) == "mypkg 2.0"  # though this instance has the old one
    make_wheel(index, "mypkg", "3.0")
    assert installed("c", generation=1) == "mypkg 2.0"
    assert installed("a", generation=1) == "mypkg 2.0"
    assert installed("c") == "mypkg 1.0"
    # Another run takes what is stored unless it asks for a fresh one, and then keeps that.
    assert installed("d", "run-2") == "mypkg 1.0"
    assert installed("d", "run-3", is_fresh=True) == "mypkg 3.0"
    make_wheel(index, "mypkg", "4.0")
    assert installed("e", "run-3", is_fresh=True) == "mypkg 3.0"
