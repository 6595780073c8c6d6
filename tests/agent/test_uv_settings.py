"""uv is the version of this project, and follows the machine's settings of pip."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl.agent.prepare.installer import UV_REQUIREMENT
from runctl.agent.prepare.uv_settings import uv_variables

PROJECT = Path(__file__).parents[2]


def test_uv_is_pinned_by_the_digests_that_the_project_itself_uses() -> None:
    assert UV_REQUIREMENT.read_bytes() == (PROJECT / "requirements/uv.txt").read_bytes()
    assert "--hash=sha256:" in UV_REQUIREMENT.read_text()


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
