"""Attempts of requests that refer to more than the script, with a real agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from tests.agent.machine import Cloud, packed
from tests.agent.packages import below, make_wheel, source_package
from tests.agent.test_dependencies import OFFLINE, PYPROJECT, plant

pytestmark = pytest.mark.slow


def run_project(cloud: Cloud, launch, folder: Path, script: str = "train.py") -> dict:
    """Pack a folder as the command does, train once, and return the outcome."""
    package = pack_project(scan_project(folder), folder.with_name("package.tar.gz"))
    cloud.create_run(script=script)
    cloud.clients["s3"].upload_file(str(package.path), cloud.name, "code/project.tar.gz")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    outcome = cloud.outcome()
    machine.wait()
    return outcome


def output(cloud: Cloud) -> list[str]:
    return [line for line in cloud.log("run-1/0001-000") if line.startswith("ran")]


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("./wheels/mypkg-1.0-py3-none-any.whl", "mypkg"),
        ("-e .", "own"),
        ("./pkg", "pkg"),
        ("--find-links wheels\nmypkg", "mypkg"),
    ],
)
def test_requirements_may_name_parts_of_the_project(
    cloud: Cloud, launch, tmp_path: Path, line: str, module: str
) -> None:
    folder = plant(
        tmp_path / "project",
        {
            **source_package("own"),
            **below("pkg", source_package("pkg")),
            "train.py": f"import {module}\nprint('ran with', {module}.SAYS)\n",
            "requirements.txt": f"{OFFLINE}{line}\n",
        },
    )
    make_wheel(folder / "wheels", "mypkg")
    outcome = run_project(cloud, launch, folder)
    assert outcome["kind"] == "completed", outcome
    assert len(output(cloud)) == 1


def test_requires_python_without_dependencies_fails_the_run(
    cloud: Cloud, launch, tmp_path: Path
) -> None:
    folder = plant(
        tmp_path / "project", {"pyproject.toml": PYPROJECT, "train.py": "print('ran')\n"}
    )
    outcome = run_project(cloud, launch, folder)
    assert outcome["kind"] == "failed"
    assert outcome["reason"].startswith(
        "pyproject.toml requires Python >=3.99, this instance has 3."
    )
    assert output(cloud) == []


@pytest.mark.parametrize(
    ("script", "program"),
    [
        ("t.py", 'print(open("data/train.csv").read())\n'),
        ("t.sh", "set -e\ncat data/train.csv\n"),
        ("t.py", "import os; os.chdir('empty'); open('../data/train.csv')\n"),
    ],
)
def test_failure_because_of_left_out_data_says_so(
    cloud: Cloud, launch, tmp_path: Path, script: str, program: str
) -> None:
    files = {script: program, ".gitignore": "data/\n", "data/train.csv": "1"}
    folder = plant(tmp_path / "project", files)
    (folder / "empty").mkdir()
    outcome = run_project(cloud, launch, folder, script)
    assert outcome["kind"] == "failed"
    assert outcome["reason"].startswith(
        "exit code 1 (data/ is left out of the package by .gitignore; include it with `!data/` in "
        ".runctlignore): "
    )
    assert "data/train.csv" in outcome["reason"]


def test_empty_folders_of_the_project_exist(cloud: Cloud, launch, tmp_path: Path) -> None:
    program = "import pathlib; (pathlib.Path('out/deep') / 'x').touch(); print('ran')\n"
    folder = plant(tmp_path / "project", {"train.py": program})
    (folder / "out/deep").mkdir(parents=True)
    assert run_project(cloud, launch, folder)["kind"] == "completed"


def test_script_with_windows_line_endings_is_refused_with_the_remedy(cloud: Cloud, launch) -> None:
    cloud.create_run(script="run.sh", files={"run.sh": "#!/bin/bash\r\necho ran\r\n"})
    cloud.open_attempt()
    cloud.give_token()
    launch()
    assert cloud.outcome()["reason"].startswith("run.sh has Windows line endings (CRLF)")


def test_archive_without_a_list_adds_no_explanation(cloud: Cloud, launch) -> None:
    cloud.create_run("open('data/train.csv')")
    cloud.clients["s3"].put_object(
        Bucket=cloud.name,
        Key="code/project.tar.gz",
        Body=packed({"train.py": "open('data/train.csv')"}),
    )
    cloud.open_attempt()
    cloud.give_token()
    launch()
    assert cloud.outcome()["reason"].startswith("exit code 1: Traceback")
