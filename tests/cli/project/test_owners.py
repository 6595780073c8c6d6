"""Another user's settings and repositories are ignored, and home folders are not packed."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.cli.project.folder import check_project_folder, find_project, look_upwards
from runctl.cli.project.scan import scan_project
from runctl.cli.project.settings import read_settings
from runctl.model.errors import ProjectError
from tests.cli.project.test_package import plant

ALICE, BOB = 51001, 51002
PROJECT = Path(__file__).parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

# Runs as another user, who may not even read this interpreter, so imports come first.
LOOK = """
import json, os, sys
from pathlib import Path
import runctl.cli.project.settings
from runctl.cli.project.folder import find_project, look_upwards, repository_top
uid, start, home = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
os.environ["HOME"] = home
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
found = look_upwards(start)
print(json.dumps({
    "settings": str(found.settings), "project": str(find_project(start)),
    "top": str(repository_top(start)),
    "warning": found.warning({".runctl.toml", ".git"}),
}))
"""


def look_as(uid: int, start: Path, *, home: Path) -> dict[str, str]:
    words = [sys.executable, "-c", LOOK, str(uid), str(start), str(home)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=PROJECT)
    return json.loads(done.stdout)


def give(top: Path, uid: int) -> Path:
    for path in (top, *top.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
    return top


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody can enter, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="runctl-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "shared"


@needs_root
def test_another_users_settings_and_repository_above_do_not_count(shared, monkeypatch):
    give(plant(shared, {".runctl.toml": "[env]\nLD_PRELOAD='/evil.so'\n", ".git/HEAD": ""}), ALICE)
    here = plant(shared / "work/mine", {"train.py": ""})
    give(shared / "work", ALICE)
    give(here, 0)
    assert read_settings(here).request == {}
    assert find_project(here) == here
    found = look_upwards(here)
    assert found.warning({".runctl.toml", ".git"}).startswith(
        f"ignored .runctl.toml and .git in {shared}: uid {ALICE} owns them"
    )


@needs_root
def test_a_users_folder_stops_at_what_belongs_to_root(shared):
    plant(shared, {".runctl.toml": "", ".git/HEAD": "", ".gitignore": "*\n"})
    here = give(plant(shared / "bob", {"deep/train.py": ""}), BOB) / "deep"
    result = look_as(BOB, here, home=shared / "nobody")
    assert (result["settings"], result["project"], result["top"]) == ("None", str(here), str(here))
    assert "root (uid 0)" in result["warning"]
    give(shared, BOB)
    result = look_as(BOB, here, home=shared / "nobody")
    assert (result["settings"], result["project"]) == (str(shared / ".runctl.toml"), str(shared))
    assert result["warning"] == ""


@needs_root
def test_owners_of_a_settings_link_and_of_its_target_both_count(shared):
    plant(shared, {"theirs.toml": "max_attempts = 3\n", "ours.toml": "max_attempts = 4\n"})
    give(shared / "theirs.toml", ALICE)
    here = shared / "project"
    here.mkdir()
    mark = here / ".runctl.toml"
    mark.symlink_to("../theirs.toml")
    assert read_settings(here).request == {}
    mark.unlink()
    mark.symlink_to("../ours.toml")
    assert read_settings(here).request == {"max_attempts": 4}
    give(mark, ALICE)
    assert read_settings(here).request == {}


@needs_root
def test_root_under_sudo_may_use_only_the_callers_files(shared, monkeypatch):
    here = give(plant(shared, {".runctl.toml": "max_attempts = 3\n"}), ALICE)
    assert read_settings(here).request == {}
    monkeypatch.setenv("SUDO_UID", str(BOB))
    assert read_settings(here).request == {}
    monkeypatch.setenv("SUDO_UID", str(ALICE))
    assert read_settings(here).request == {"max_attempts": 3}
    monkeypatch.setenv("SUDO_UID", f"{ALICE}x")
    assert read_settings(here).request == {}


@needs_root
def test_a_named_folder_is_trusted_and_its_parents_are_not(shared):
    give(plant(shared, {".runctl.toml": "", "named/.runctl.toml": "max_attempts = 3\n"}), ALICE)
    assert read_settings(shared / "named", is_named=True).request == {"max_attempts": 3}
    give(plant(shared, {"bare/train.py": ""}), ALICE)
    assert look_upwards(shared / "bare", is_named=True).settings is None


@needs_root
def test_ignore_rules_of_another_users_repository_include_no_secret(shared):
    give(plant(shared, {".git/HEAD": "", ".runctlignore": "!.env\n"}), ALICE)
    here = give(plant(shared / "mine", {"train.py": "", ".env": ""}), 0)
    assert [member.path for member in scan_project(here).members] == ["train.py"]


@needs_root
def test_a_command_reports_ignored_settings_in_one_line(runctl, deployed, project):
    (project / ".runctl.toml").write_text('[aws]\nprofile = "theirs"\n')
    (project / ".git").mkdir()
    give(project / ".runctl.toml", ALICE)
    give(project / ".git", ALICE)
    done = runctl("aws", "train", "--dry-run", "train.py")
    assert done.code == 0
    assert done.stderr.count("warning: ") == 1
    assert f"ignored .runctl.toml and .git in {project}: uid {ALICE} owns them" in done.stderr
    done = runctl("list")
    assert f"warning: ignored .runctl.toml in {project}: uid {ALICE} owns it" in done.stderr
    # Once the user has named the folder, its settings apply: the profile does not exist.
    give(project, ALICE)
    done = runctl("aws", "train", "--dry-run", "--project", ".", "train.py")
    assert "theirs" in done.stderr


def test_nothing_above_the_home_folder_is_read(tmp_path, monkeypatch):
    plant(tmp_path, {".runctl.toml": "max_attempts = 3\n", ".git/HEAD": "", "home/ml/t.py": ""})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert read_settings(tmp_path / "home/ml").request == {}
    assert find_project(tmp_path / "home/ml") == tmp_path / "home/ml"


def test_the_home_folder_may_have_settings_but_is_not_a_project(tmp_path, monkeypatch):
    home = plant(tmp_path / "home", {".runctl.toml": "max_attempts = 3\n", ".git/HEAD": ""})
    here = plant(home / "ml", {"t.py": ""})
    monkeypatch.setenv("HOME", str(home))
    assert read_settings(here).request == {"max_attempts": 3}
    assert find_project(here) == here


@pytest.mark.parametrize("mark", ["", ".git", ".runctl.toml"])
def test_the_home_folder_is_packed_only_when_it_is_named(
    runctl, deployed, tmp_path, monkeypatch, mark
):
    home = plant(tmp_path / "home", {"train.py": "", "letters.txt": "private"})
    if mark:
        (home / mark).touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    done = runctl("aws", "train", "--detach", "train.py")
    assert done.code == 2
    assert "your home folder, which is packed only if it is named" in done.stderr
    assert deployed.objects() == []
    assert runctl("aws", "train", "--dry-run", "--project", ".", "train.py").code == 0


@pytest.mark.parametrize("folder", ["/", "/root", "/home", "/etc", "/usr", "/tmp", "/proc/self"])
def test_system_folders_are_not_projects(folder):
    with pytest.raises(ProjectError, match="a system folder"):
        check_project_folder(Path(folder))


def test_a_script_in_s3_can_be_started_from_the_home_folder(runctl, deployed, monkeypatch):
    home = Path(os.environ["HOME"])
    home.mkdir()
    monkeypatch.chdir(home)
    deployed.clients.get("s3").put_object(Bucket="runctl-bucket", Key="code/x.py", Body=b"1")
    done = runctl("aws", "train", "--dry-run", "s3://runctl-bucket/code/x.py")
    assert done.code == 0, done.stderr
