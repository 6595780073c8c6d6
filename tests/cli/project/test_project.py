"""The project's folder is found, its script located and its dependency files checked."""

from pathlib import Path

import pytest

from runctl.cli.project.dependencies import check_dependencies
from runctl.cli.project.folder import find_project
from runctl.cli.project.scan import locate_script, scan_project
from runctl.model.errors import InvalidRequestError


def plant(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


@pytest.mark.parametrize("mark", [".runctl.toml", ".git"])
def test_the_project_is_the_nearest_folder_with_a_mark(tmp_path, mark):
    plant(tmp_path, {f"a/{mark}": "", "a/b/c/train.py": ""})
    assert find_project(tmp_path / "a/b/c") == tmp_path / "a"


def test_settings_in_a_folder_of_a_repository_make_it_a_project(tmp_path):
    plant(tmp_path, {".git/HEAD": "", "ml/.runctl.toml": "", "ml/src/train.py": ""})
    assert find_project(tmp_path / "ml/src") == tmp_path / "ml"


@pytest.mark.parametrize(
    ("script", "here"), [("src/train.py", "."), ("train.py", "src"), ("src/train.py", "docs")]
)
def test_a_script_is_relative_to_the_current_folder_or_the_project(tmp_path, script, here):
    project = scan_project(plant(tmp_path, {"src/train.py": "", "docs/x.md": ""}))
    assert locate_script(script, project, here=tmp_path / here) == "src/train.py"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("tran.py", "'tran.py' does not exist in .*; did you mean src/train.py"),
        ("src/trian.py", "did you mean src/train.py"),
        ("zzz", "it has src/train.py"),
        ("src", "'src' is a folder"),
        ("../outside.py", "is outside the project"),
        ("ignored.py", r"left out of the package; add the line !/ignored.py to .runctlignore"),
    ],
)
def test_a_script_that_cannot_run_is_refused_with_a_remedy(tmp_path, script, expected):
    plant(tmp_path, {"outside.py": ""})
    top = plant(
        tmp_path / "top", {"src/train.py": "", "ignored.py": "", ".gitignore": "ignored.py\n"}
    )
    with pytest.raises(InvalidRequestError, match=expected) as caught:
        locate_script(script, scan_project(top), here=top)
    assert caught.value.problems[0].field == "script"


GOOD = """\
# what we need
torch>=2.4,<3 ; python_version < "3.13"
numpy
Pillow == 11.0  # pictures
uvicorn[standard]~=0.30
package @ https://example.com/package.whl
--extra-index-url https://example.com/simple
-r more.txt
-e .
./wheels/local.whl
requests (>=2.0)
hashed==1.0 \\
    --hash=sha256:00 \\
    --hash=sha256:11
"""


def test_valid_dependency_files_are_accepted(tmp_path):
    project = plant(
        tmp_path,
        {
            "requirements.txt": GOOD,
            "more.txt": "-c pins/all.txt\n",
            "pins/all.txt": "torch<3\n",
            "wheels/local.whl": "",
            "pyproject.toml": "[project]\nname='x'\nrequires-python='>=3.10,<4'\n",
            "train.py": "print()\n",
            "other.py": '# /// script\n# dependencies = ["torch>=2"]\n# ///\nprint()\n',
        },
    )
    check_dependencies(scan_project(project), "train.py")
    check_dependencies(scan_project(project), "other.py")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "requirements.txt",
            "torch\nnumpy=1.2\n",
            "requirements.txt:2: 'numpy=1.2' is not a valid requirement",
        ),
        ("requirements.txt", "import torch\n", "requirements.txt:1: 'import torch'"),
        ("requirements.txt", "-r gone.txt\n", "'-r gone.txt': gone.txt does not exist"),
        ("pyproject.toml", "[project\n", "pyproject.toml: not valid TOML"),
        ("uv.lock", "version =\n", "uv.lock: not valid TOML"),
        (
            "train.py",
            "# /// script\n# dependencies = [\n# ///\n",
            "`# /// script` block is not valid TOML",
        ),
        (
            "train.py",
            '# /// script\n# dependencies = "torch"\n# ///\n',
            "dependencies are 'torch', not a list",
        ),
    ],
)
def test_an_invalid_dependency_file_is_refused_with_its_line(tmp_path, name, text, expected):
    plant(tmp_path, {"train.py": "", name: text})
    with pytest.raises(InvalidRequestError) as caught:
        check_dependencies(scan_project(tmp_path), "train.py")
    assert expected in str(caught.value)


def test_a_requirements_file_of_another_encoding_is_refused(tmp_path):
    plant(tmp_path, {"train.py": ""})
    (tmp_path / "requirements.txt").write_bytes("torch\r\n".encode("utf-16"))
    with pytest.raises(InvalidRequestError, match=r"requirements\.txt: not UTF-8 text"):
        check_dependencies(scan_project(tmp_path), "train.py")


def test_all_invalid_files_are_in_one_message(tmp_path):
    plant(tmp_path, {"train.py": "", "requirements.txt": "a b\nc d\n", "pyproject.toml": "["})
    with pytest.raises(InvalidRequestError) as caught:
        check_dependencies(scan_project(tmp_path), "train.py")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("name", "content", "refused"),
    [
        ("run.sh", b"#!/bin/bash\r\necho\r\n", True),
        ("run.sh", b"#!/bin/bash\necho\r\n", True),
        ("run.sh", b"echo\r\n", True),
        ("run.pl", b"#!/usr/bin/perl\r\n", True),
        ("run.pl", b"#!/usr/bin/perl\nprint\r\n", False),
        ("run.sh", b"#!/bin/bash\necho\n", False),
        ("run.py", b"#!/usr/bin/env python\r\nprint()\r\n", False),
    ],
)
def test_a_program_with_windows_line_endings_is_refused_where_linux_cannot_run_it(
    tmp_path, name, content, refused
):
    (tmp_path / name).write_bytes(content)
    project = scan_project(tmp_path)
    if not refused:
        assert locate_script(name, project, here=tmp_path) == name
        return
    with pytest.raises(InvalidRequestError, match=rf"CRLF.*`sed -i 's/\\r\$//' {name}`"):
        locate_script(name, project, here=tmp_path)
