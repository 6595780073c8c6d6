"""The processes of functions start with every Python that the local cloud supports."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.local.core.interpreter import base_python
from runctl.local.server import environments, forks
from runctl.local.server.forks import ForkServer

# Found in PATH, or where pyenv and uv put them: next to the one that runs the tests.
VERSIONS = range(10, 15)
NAMES = [f"python3.{minor}" for minor in VERSIONS]
FOLDERS = [path for path in Path(sys.base_prefix).resolve().parent.glob("*/bin") if path.is_dir()]
PROGRAM = """
import boto3, os, sys
print(os.environ["NAME"], *sys.version_info[:2], "runctl" in sys.modules, flush=True)
sys.stderr.write("no end of line")
sys.stdin.read()
"""


def find_python(name: str) -> str | None:
    for folder in (None, *map(str, FOLDERS)):
        found = shutil.which(name, path=folder)
        words = [found or "", "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
        if found and subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return found
    return None


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "modules"
    folder.mkdir()
    for name in environments._RUNTIME_MODULES:
        environments._link(name, folder)
    return folder


@pytest.fixture
def server(modules: Path) -> Iterator[ForkServer]:
    server = ForkServer(modules)
    yield server
    if server._server is not None:
        process, requests = server._server
        requests.close()
        assert process.wait(60) == 0


@contextlib.contextmanager
def started(server: ForkServer, folder: Path) -> Iterator[forks.ForkedProcess]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    environment = {"NAME": "named", "PATH": os.defpath}
    process = server.start(str(program), folder=folder, environment=environment, brought=[])
    with process.stdin, process.stdout, process.stderr:
        yield process


@pytest.mark.parametrize("name", NAMES)
def test_processes_are_forked_by_each_supported_version(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    python = find_python(name)
    if python is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(forks, "base_python", lambda: python)
    with started(server, tmp_path) as process:
        assert process.stdout.readline().split() == ["named", *name[6:].split("."), "False"]
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == "no end of line"


def test_processes_are_forked_and_ended_by_a_python_that_was_built_for_old_kernels(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = "import os, runpy, signal, sys; del os.pidfd_open, signal.pidfd_send_signal; "
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nshift 3\nexec {base_python()} -I -S -u -c '{without}"
        'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")\' "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(forks, "base_python", lambda: str(python))
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.delattr(signal, "pidfd_send_signal")
    with started(server, tmp_path) as process:
        assert process.stdout.readline()
        process.terminate()
        assert process.wait(60) == 0
        process.kill()  # it has ended


def test_ended_processes_leave_neither_zombies_nor_descriptors(
    server: ForkServer, tmp_path: Path
) -> None:
    def run() -> None:
        with started(server, tmp_path) as process:
            process.kill()
            process.wait(60)

    run()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert server._server is not None
    children = Path(f"/proc/{server._server[0].pid}/task/{server._server[0].pid}/children")
    deadline = time.monotonic() + 60
    while children.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children.read_text() == ""


def test_where_no_process_can_be_forked_the_error_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "base_python", lambda: "false")
    with pytest.raises(OSError, match=f"{tmp_path}/cloud.log says why"):
        ForkServer(tmp_path / "modules").start("p", folder=tmp_path, environment={}, brought=[])


def test_code_that_cannot_be_unpacked_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(zipfile.BadZipFile):
        environments.Code(b"no archive")
    assert list(tmp_path.iterdir()) == []
