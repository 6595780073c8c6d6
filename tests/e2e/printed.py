"""The commands of docs/USE_CASES.md, run in a shell exactly as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.testbed import PROJECT, Testbed

CREATE = "runctl aws create --spot --instance-type m5.large --keep-alive 1 --output instance-id"
INSTANCE = "$INSTANCE_ID "


def printed_command(beginning: str) -> str:
    """Return the one command of the use cases that begins like this, in one line."""
    page = (PROJECT / "docs/USE_CASES.md").read_text()
    commands = [
        re.sub(r" *\\\n *", " ", command.removeprefix("$ "))
        for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL)
        for command in re.split(r"\n(?=\$ )", block.rstrip("\n"))
    ]
    (found,) = [command for command in commands if command.startswith(beginning)]
    return found


def start_printed(
    testbed: Testbed, command: str, project: Path, *, names: Mapping[str, str], instance: bool
) -> subprocess.Popen[str]:
    """Start a printed command in a project, on an existing instance or without one.

    `names` are the words that stand for something of the reader's own, such as BUCKET.
    """
    for word, name in names.items():
        assert word in command
        command = command.replace(word, name)
    assert INSTANCE in command
    if not instance:
        command = command.replace(INSTANCE, "")
    (project / ".runctl.toml").touch()
    return subprocess.Popen(
        ["bash", "-ec", f"INSTANCE_ID={f'$({CREATE})' if instance else ''}\n{command}"],
        cwd=project,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RUNCTL_LOCAL": "1",
            "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
