"""The package of a project is reproducible and contains only what it should."""

import os
import socket
from pathlib import Path

import pytest

from runctl.agent.instance.archive import unpack
from runctl.cli.project import scan as project_module
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.model.errors import ProjectError


def plant(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def paths(top: Path) -> list[str]:
    return [member.path for member in scan_project(top).members]


TREE = {"train.py": "print()", "pkg/__init__.py": "", "pkg/mödel.py": "x = 1", "z/data.txt": "z"}


def test_the_same_tree_gives_the_same_bytes_anywhere(tmp_path):
    top = plant(tmp_path / "one", TREE)
    other = plant(tmp_path / "far/away/two", dict(reversed(TREE.items())))
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() else 0o600)
    first = pack_project(scan_project(top), tmp_path / "a.tar.gz")
    second = pack_project(scan_project(other), tmp_path / "b.tar.gz")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.key == second.key == f"code/{first.sha256}.tar.gz"


@pytest.mark.parametrize("change", ["content", "name", "mode"])
def test_different_files_give_a_different_name(tmp_path, change):
    top = plant(tmp_path / "top", TREE)
    before = pack_project(scan_project(top), tmp_path / "a.tar.gz").sha256
    if change == "content":
        (top / "train.py").write_text("print(1)")
    elif change == "name":
        (top / "train.py").rename(top / "train2.py")
    else:
        (top / "train.py").chmod(0o755)
    assert pack_project(scan_project(top), tmp_path / "b.tar.gz").sha256 != before


def test_a_package_unpacks_to_the_same_files(tmp_path):
    top = plant(tmp_path / "top", TREE)
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "z/link").symlink_to("../train.py")
    (top / "pkg/absolute").symlink_to(top / "z")
    package = pack_project(scan_project(top), tmp_path / "a.tar.gz")
    unpack(package.path, tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "pkg/mödel.py").read_text() == "x = 1"
    assert (out / "z/link").readlink() == Path("../train.py")
    assert (out / "pkg/absolute").readlink() == Path("../z")
    assert (out / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (out / "train.py").stat().st_mode & 0o777 == 0o644


def test_caches_and_environments_are_never_packed(tmp_path):
    plant(
        tmp_path,
        {
            "train.py": "",
            ".git/config": "",
            ".venv/lib/x.py": "",
            "my-environment/pyvenv.cfg": "",
            "my-environment/lib/x.py": "",
            "pkg/__pycache__/a.pyc": "",
            "pkg/a.py": "",
            ".mypy_cache/x": "",
            "node_modules/x/index.js": "",
        },
    )
    assert paths(tmp_path) == ["pkg/a.py", "project", "train.py"]


def test_empty_folders_are_packed_even_if_rules_emptied_them(tmp_path):
    top = plant(
        tmp_path / "top",
        {".gitignore": "*.bin\n/gone/\n", "train.py": "", "out/x.bin": "", "gone/y": ""},
    )
    for name in ("logs", "deep/er", "pkg/__pycache__"):
        (top / name).mkdir(parents=True)
    (top / "pkg/__pycache__/a.pyc").touch()
    package = pack_project(scan_project(top), tmp_path / "a.tar.gz")
    unpack(package.path, tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    folders = {
        str(folder.relative_to(unpacked)) for folder in unpacked.rglob("*") if folder.is_dir()
    }
    assert folders == {"logs", "deep", "deep/er", "out"}


def test_a_project_of_empty_folders_alone_is_refused(tmp_path):
    (tmp_path / "only").mkdir()
    with pytest.raises(ProjectError, match="nothing to pack"):
        scan_project(tmp_path)


def test_rules_of_the_repository_apply_to_a_project_inside_it(tmp_path):
    plant(tmp_path, {".git/HEAD": "", ".gitignore": "*.bin\n/ml/big/\n"})
    plant(tmp_path / "ml", {"train.py": "", "w.bin": "", "big/x.txt": "", "small/x.txt": ""})
    assert paths(tmp_path / "ml") == ["small/x.txt", "train.py"]


@pytest.mark.parametrize("target", ["../secret.txt", "/etc/passwd", "pkg/../../secret.txt"])
def test_a_link_that_leaves_the_project_is_refused_by_name(tmp_path, target):
    top = plant(tmp_path / "top", TREE)
    (tmp_path / "secret.txt").write_text("")
    (top / "leak").symlink_to(target)
    with pytest.raises(ProjectError, match=r"leak: the symbolic link leaves .*\.runctlignore"):
        scan_project(top)


def test_a_link_cannot_leave_through_a_link_to_a_folder(tmp_path):
    top = plant(tmp_path / "top", TREE)
    (tmp_path / "outside").mkdir()
    (top / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(ProjectError, match="out: the symbolic link leaves"):
        scan_project(top)


def test_an_excluded_link_may_have_any_target(tmp_path):
    top = plant(tmp_path / "top", {**TREE, ".runctlignore": "leak\n"})
    (top / "leak").symlink_to("/etc/passwd")
    assert "leak" not in paths(top)


def test_links_in_a_circle_are_packed_as_links(tmp_path):
    top = plant(tmp_path / "top", TREE)
    (top / "a").symlink_to("b")
    (top / "b").symlink_to("a")
    assert {"a", "b"} <= set(paths(top))


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"two\nlines", b"bell\x07"])
def test_an_unprintable_name_is_refused(tmp_path, name):
    top = plant(tmp_path / "top", TREE)
    (Path(os.fsdecode(os.fsencode(top) + b"/" + name))).write_text("")
    with pytest.raises(ProjectError, match=r"not printable UTF-8 text; rename it"):
        scan_project(top)


@pytest.mark.parametrize(
    ("name", "call"), [("z", "os.scandir"), ("z/data.txt", "pathlib.Path.open")]
)
def test_an_unreadable_file_is_named(tmp_path, monkeypatch, name, call):
    top = plant(tmp_path / "top", TREE)
    real = os.scandir if call == "os.scandir" else Path.open

    def refuse(path, *arguments, **options):
        # Root may read everything, so the test simulates the refusal.
        if Path(path) == top / name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(call, refuse)
    with pytest.raises(ProjectError, match=f"{name}: permission denied"):
        pack_project(scan_project(top), tmp_path / "a.tar.gz")


def test_sockets_and_pipes_are_not_packed(tmp_path, monkeypatch):
    top = plant(tmp_path / "top", TREE)
    os.mkfifo(top / "pipe")
    monkeypatch.chdir(top)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert not {"pipe", "socket"} & set(paths(top))


def test_a_project_that_is_too_large_is_refused_with_its_largest_folders(tmp_path):
    top = plant(tmp_path / "top", {**TREE, "data/raw/huge.bin": "x" * 9000, "other.bin": "x" * 500})
    with pytest.raises(ProjectError) as caught:
        scan_project(top, largest_bytes=1000)
    message = str(caught.value)
    assert "9.5 kB, more than 1.0 kB" in message
    assert message.index("data/ (9.0 kB)") < message.index("other.bin (500 B)")
    assert "the largest file is data/raw/huge.bin, 9.0 kB" in message
    assert ".runctlignore" in message


def test_too_many_files_are_refused_before_all_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(project_module, "MAX_PROJECT_FILES", 10)
    plant(tmp_path, {f"frames/{number:02}.txt": "" for number in range(30)})
    with pytest.raises(ProjectError, match=r"more than 10 files; the largest: frames/ \(11 files"):
        scan_project(tmp_path)


@pytest.mark.parametrize("files", [{}, {".gitignore": "*\n", "a.py": ""}])
def test_an_empty_project_is_refused(tmp_path, files):
    with pytest.raises(ProjectError, match="nothing to pack"):
        scan_project(plant(tmp_path, files))


@pytest.mark.parametrize("then", ["x" * 100_000, "", None])
def test_a_file_that_changes_while_it_is_packed_is_named(tmp_path, then):
    top = plant(tmp_path / "top", TREE)
    scanned = scan_project(top)
    if then is None:
        (top / "z/data.txt").unlink()
    else:
        (top / "z/data.txt").write_text(then)
    with pytest.raises(ProjectError, match=r"z/data.txt: changed while it was packed"):
        pack_project(scanned, tmp_path / "a.tar.gz")


def test_progress_adds_up_to_the_project(tmp_path):
    scanned = scan_project(plant(tmp_path / "top", TREE))
    reported: list[int] = []
    pack_project(scanned, tmp_path / "a.tar.gz", progress=reported.append)
    assert sum(reported) == scanned.size_bytes > 0
