"""Another user of this machine: real processes with another user id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

NOBODY = 65534

# Becomes another user after all imports: that user may not be allowed to read Python's files.
_BECOME = """
import encodings.idna, http.client, json, os, sys
os.setgroups([])
os.setgid({nobody})
os.setuid({nobody})
assert os.getuid() == os.geteuid() == {nobody}
"""
# Sends requests as they are written, whatever they lack, and prints the answers.
_SENDER = """
answers = []
for one in json.load(sys.stdin):
    connection = http.client.HTTPConnection("127.0.0.1", one["port"], timeout=240)
    try:
        connection.request(one["method"], one["path"], one["body"], one["headers"])
        answer = connection.getresponse()
        answers.append([answer.status, answer.read().decode(errors="replace")])
    except OSError as exc:
        answers.append([0, repr(exc)])
    connection.close()
print(json.dumps(answers))
"""

needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"),
    reason="only root can start processes of another user",
)


def run_as_stranger(code: str, *words: str, stdin: str = "") -> str:
    """Run a Python program as the user nobody, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _BECOME.format(nobody=NOBODY) + code, *words],
        input=stdin,
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def request(
    port: int,
    method: str,
    path: str,
    *,
    body: str | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "port": port,
        "method": method,
        "path": path,
        "body": body,
        "headers": headers or {},
    }


def send_as_stranger(*requests: dict[str, Any]) -> list[tuple[int, str]]:
    """Send requests as the user nobody, and return the status and body of each answer."""
    printed = run_as_stranger(_SENDER, stdin=json.dumps(requests))
    return [(status, body) for status, body in json.loads(printed)]
