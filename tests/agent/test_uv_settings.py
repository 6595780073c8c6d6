"""uv is the version of this project, and follows the machine's settings of pip."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pip
import pytest

from runctl.agent.prepare.installer import UV_REQUIREMENT, Installer, Tools
from runctl.agent.prepare.uv_settings import uv_variables
from runctl.model.errors import RequestError

PROJECT = Path(__file__).parents[2]


def test_uv_is_pinned_by_the_digests_that_the_project_itself_uses() -> None:
    assert UV_REQUIREMENT.read_bytes() == (PROJECT / "requirements/uv.txt").read_bytes()
    assert "--hash=sha256:" in UV_REQUIREMENT.read_text()


def test_uv_that_an_index_has_exchanged_is_neither_installed_nor_started(tmp_path: Path) -> None:
    (line, *_) = UV_REQUIREMENT.read_text().splitlines()
    version = line.partition("==")[2].split()[0]
    index, project, planted = tmp_path / "index", tmp_path / "project", tmp_path / "planted"
    index.mkdir()
    project.mkdir()
    info, program = f"uv-{version}.dist-info", f"uv-{version}.data/scripts/uv"
    with zipfile.ZipFile(index / f"uv-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: uv\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(program, f"#!/bin/sh\ntouch {planted}\n")
    environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "HOME": str(tmp_path)}
    tools = Tools(python=Path(sys.executable), pip=Path(pip.__file__).parent, environ=environ)
    folder = tmp_path / "environments"
    folder.mkdir()
    waited: list[float] = []
    installer = Installer(
        tools, folder, log=lambda: (tmp_path / "log").open("a"), wait=waited.append
    )
    with pytest.raises(RequestError, match="failed to install") as refused:
        installer.export(project, "uv.lock", tmp_path / "exported")
    (wheel_file,) = index.iterdir()
    assert hashlib.sha256(wheel_file.read_bytes()).hexdigest() in str(refused.value)
    assert waited == []
    assert not planted.exists()
    assert not (folder / "uv/ready").exists()
    assert not (folder / "uv/bin/uv").exists()


def test_settings_of_pip_are_passed_on() -> None:
    listed = [
        "global.index-url='https://index.example.com/simple'",
        "global.extra-index-url='https://a.example.com/x\\nhttps://b.example.com/x'",
        "install.find-links='/opt/wheels /srv/wheels'",
        ":env:.cert='/etc/own.pem'",
        "global.quiet='1'",
        "list.format='columns'",
        "",
    ]
    assert uv_variables(listed) == {
        "UV_DEFAULT_INDEX": "https://index.example.com/simple",
        "UV_INDEX": "https://a.example.com/x https://b.example.com/x",
        "UV_FIND_LINKS": "/opt/wheels,/srv/wheels",
        "SSL_CERT_FILE": "/etc/own.pem",
    }
    assert uv_variables([]) == {}


@pytest.mark.parametrize(
    "line", ["global.no-binary=':all:'", "install.something-new='1'", "global.index-url=unquoted"]
)
def test_settings_that_uv_cannot_follow_leave_the_work_to_pip(line: str) -> None:
    assert uv_variables([line]) is None
