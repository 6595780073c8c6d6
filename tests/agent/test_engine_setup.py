"""The engine of a machine is started, and installed only where that is ours to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runctl.agent.instance.paths import Paths
from runctl.agent.prepare import engine_setup
from runctl.agent.prepare.engine_setup import require_engine
from runctl.agent.runtime.engine import Engine
from runctl.model.errors import RequestError

STARTS = "touch {folder}/running"
FAILS = "echo 'Unit docker.service not found.' >&2; exit 5"


class Host:
    """A machine with programs of the test's own; `calls` has the words of each call."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("PATH", f"{folder}:/nonexistent")
        self.add(
            "docker",
            "test -e {folder}/running || "
            "{ echo 'Cannot connect to the Docker daemon' >&2; exit 1; }",
        )

    def add(self, name: str, text: str) -> None:
        path = self.folder / name
        text = text.replace("{folder}", str(self.folder))
        log = f'echo "{name} $*" >> {self.folder}/calls\n' if name != "docker" else ""
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{log}{text}\n")
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def require(self, *, may_install: bool = True) -> None:
        engine = Engine(self.folder, self.folder)
        require_engine(engine, Paths(self.folder / "root"), may_install=may_install)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_engine_that_runs_is_left_alone(host: Host) -> None:
    (host.folder / "running").touch()
    host.require()
    assert host.calls == []


def test_engine_that_does_not_run_is_started(host: Host) -> None:
    host.add("systemctl", STARTS)
    host.require()
    assert host.calls == ["systemctl start docker.service"]


@pytest.mark.parametrize(
    ("manager", "commands"),
    [
        (
            "apt-get",
            [
                "apt-get -qq update",
                (
                    "apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "
                    "docker.io"
                ),
            ],
        ),
        ("dnf", ["dnf -q -y install docker"]),
    ],
)
def test_missing_engine_is_installed_with_the_manager_of_the_system_and_started(
    host: Host, manager: str, commands: list[str]
) -> None:
    host.add("systemctl", f"test -e {{folder}}/installed && {STARTS} || {{ {FAILS}; }}")
    host.add(manager, "touch {folder}/installed")
    host.require()
    start = "systemctl start docker.service"
    assert host.calls == [start, *commands, start]


def test_nothing_is_installed_on_a_machine_that_is_not_ours(host: Host) -> None:
    host.add("systemctl", FAILS)
    host.add("apt-get", "true")
    with pytest.raises(RequestError, match=r"Unit docker.service not found.*apt-get install"):
        host.require(may_install=False)
    assert host.calls == ["systemctl start docker.service"]


def test_engine_that_is_installed_and_does_not_start_is_not_installed_again(host: Host) -> None:
    host.add("systemctl", "echo 'Job for docker.service failed.' >&2; exit 1")
    host.add("dockerd", "true")
    host.add("apt-get", "true")
    with pytest.raises(RequestError, match=r"Job for docker.service failed"):
        host.require()
    assert host.calls == ["systemctl start docker.service"]


def test_installation_that_fails_or_hangs_is_reported_with_its_last_words(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add("systemctl", FAILS)
    host.add("apt-get", "echo 'E: Unable to locate package docker.io' >&2; exit 100")
    with pytest.raises(RequestError, match="E: Unable to locate package") as told:
        host.require()
    assert "installing one failed" in str(told.value)
    monkeypatch.setitem(engine_setup.COMMANDS, "apt-get", ((("apt-get", "update"), 1),))
    host.add("apt-get", "exec sleep 60")
    with pytest.raises(RequestError, match="did not end within 1 s"):
        host.require()


# The state folder is a mount of its own, in a mount namespace of the program's own.
PLACES_IMAGES = """
import sys
from pathlib import Path
from runctl.agent.instance.paths import Paths
from runctl.agent.prepare.engine_setup import place_images
from runctl.local.ec2 import disks

root, existing = Path(sys.argv[1]), sys.argv[2:]
paths, settings = Paths(root), root / "etc/docker/daemon.json"
paths.state.mkdir(parents=True)
place_images(paths)
print(settings.exists())
disks.enter_own_namespace()
disks.mount(paths.state, 1 << 20)
if "images" in existing:
    (root / "var/lib/docker").mkdir(parents=True)
if "settings" in existing:
    settings.parent.mkdir(parents=True)
    settings.write_text("{}")
place_images(paths)
print(settings.read_text() if settings.exists() else "none")
"""


@pytest.mark.parametrize(
    ("existing", "written"),
    [((), '{{"data-root": "{state}/engine"}}'), (("settings",), "{{}}"), (("images",), "none")],
)
def test_images_go_to_the_machines_own_disks_unless_somebody_has_configured_an_engine(
    tmp_path: Path, existing: tuple[str, ...], written: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLACES_IMAGES, str(tmp_path), *existing],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Without disks of its own, a machine keeps the engine's default.
    assert done.stdout.splitlines() == ["False", written.format(state=Paths(tmp_path).state)]
