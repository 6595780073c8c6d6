"""Files that are open for writing are found, whatever path they were opened by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runctl.agent.instance.open_files import OpenFileFinder
from tests.agent.machine import PROJECT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return folder


def found(folder: Path) -> frozenset[str]:
    """Return the files that this process holds open, as a new finder sees them."""
    return OpenFileFinder(folder).files([os.getpid()])


def test_only_files_of_the_folder_that_are_open_for_writing_count(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "read").touch()
    (folder / "deep").mkdir()
    with (
        (folder / "written").open("w"),
        (folder / "deep/appended").open("a"),
        (folder / "read").open(),
        (tmp_path / "elsewhere").open("w"),
    ):
        assert found(folder) == {"written", "deep/appended"}
    assert found(folder) == set()


def test_process_that_has_ended_writes_nothing(folder: Path) -> None:
    assert OpenFileFinder(folder).by_process([2**22 - 1]) == {}


def test_file_that_was_removed_is_not_written(folder: Path) -> None:
    with (folder / "a").open("w"):
        (folder / "a").unlink()
        (folder / "a").touch()
        assert found(folder) == set()


def test_file_is_found_by_every_name_that_it_has_in_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    with (tmp_path / "outside").open("w"):
        (folder / "first").hardlink_to(tmp_path / "outside")
        assert found(folder) == {"first"}
        (folder / "second").hardlink_to(tmp_path / "outside")
        assert found(folder) == {"first", "second"}


@pytest.mark.parametrize("into", ["hardlink_to", "rename"])
def test_open_file_that_comes_into_the_folder_later_is_found_by_the_same_finder(
    folder: Path, tmp_path: Path, into: str
) -> None:
    finder, outside = OpenFileFinder(folder), tmp_path / "outside"
    with outside.open("w"):
        assert finder.files([os.getpid()]) == set()
        if into == "rename":
            outside.rename(folder / "inside")
        else:
            (folder / "inside").hardlink_to(outside)
        assert finder.files([os.getpid()]) == {"inside"}
        (folder / "inside").rename(folder / "renamed")
        assert finder.files([os.getpid()]) == {"renamed"}


# Runs where a mount affects nobody else: argv is the source tree, the folder, and the path at which
# the folder is mounted as well. Prints the result while the file is open, and afterwards.
BIND = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from runctl.agent.instance.open_files import OpenFileFinder
folder, alias = map(Path, sys.argv[2:])
subprocess.run(["mount", "--bind", folder, alias], check=True)
finder = OpenFileFinder(folder)
writer = subprocess.Popen(
    [*json.loads(sys.stdin.read()), sys.executable, "-c",
     f"held = open({str(alias / 'deep/step-1.bin')!r}, 'w'); print('up', flush=True); input()"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)
writer.stdout.readline()
first, second = (sorted(finder.files([writer.pid])) for _ in range(2))
(folder / "deep").rename(folder / "moved")
moved = sorted(finder.files([writer.pid]))
writer.communicate(b"\\n")
print(json.dumps([first, second, moved, sorted(finder.files([writer.pid]))]))
"""


@pytest.mark.parametrize("apart", [[], ["unshare", "--mount"]], ids=["same", "own namespace"])
def test_file_that_is_opened_behind_a_bind_mount_is_found(
    folder: Path, tmp_path: Path, apart: list[str]
) -> None:
    alias = tmp_path / "data"
    alias.mkdir()
    (folder / "deep").mkdir()
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Ur", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("neither root nor a user namespace may mount here")
    done = subprocess.run(
        [*own, sys.executable, "-c", BIND, str(PROJECT), str(folder), str(alias)],
        input=json.dumps(apart).encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    name = ["deep/step-1.bin"]
    assert json.loads(done.stdout) == [name, name, ["moved/step-1.bin"], []]
