"""The SSM documents for existing instances, which run the same bootstrap script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# If a role lacks a permission, more tries do not help.
TRIES = {"RUNCTL_BOOT_TRIES": "4"}


def start_command(header: Mapping[str, str], script: str) -> dict[str, Any]:
    """Return the document that starts the agent for an attempt, or checks the requirements."""
    return _document(
        "Start the runctl agent on this instance for an attempt, or check the requirements.",
        {
            "action": _choice("What to do.", "check", "start"),
            "run": _text("The run.", r"^[A-Za-z0-9_-]{0,64}$"),
            "attempt": _text("The attempt.", r"^[0-9]{0,4}$"),
        },
        {**header, **TRIES},
        {"RUNCTL_ACTION": "action", "RUNCTL_RUN_ID": "run", "RUNCTL_ATTEMPT": "attempt"},
        script,
    )


def monitor_command(header: Mapping[str, str], script: str) -> dict[str, Any]:
    """Return the document that starts or stops monitoring a process."""
    return _document(
        "Save the checkpoints of a training process that runctl did not start.",
        {
            "action": _choice("What to do.", "monitor", "unmonitor"),
            "uri": _text(
                "The destination.", r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*()/=+-]*)?)?$"
            ),
            "pid": _text("The process; empty to search for it.", r"^[0-9]{0,10}$"),
            "folder": _text("The checkpoint folder; empty to search for it.", r"^(/[\w. /=+-]*)?$"),
            "sigterm": _choice(
                "Whether to send SIGTERM to the process after a notice.", "no", "yes"
            ),
        },
        {**header, **TRIES},
        {
            "RUNCTL_ACTION": "action",
            "MONITOR_URI": "uri",
            "MONITOR_PID": "pid",
            "MONITOR_DIR": "folder",
            "MONITOR_SIGTERM": "sigterm",
        },
        script,
    )


def _document(
    description: str,
    parameters: Mapping[str, Mapping[str, Any]],
    header: Mapping[str, str],
    variables: Mapping[str, str],
    script: str,
) -> dict[str, Any]:
    """Return an SSM document; SSM validates every parameter before it reaches the shell."""
    exports = [f"export {name}='{value}'" for name, value in header.items()]
    exports += [f"export {name}='{{{{ {parameter} }}}}'" for name, parameter in variables.items()]
    return {
        "schemaVersion": "2.2",
        "description": description,
        "parameters": parameters,
        "mainSteps": [
            {
                "action": "aws:runShellScript",
                "name": "bootstrap",
                "inputs": {
                    "timeoutSeconds": "900",
                    "runCommand": ["#!/bin/bash", *exports, *script.splitlines()],
                },
            }
        ],
    }


def _choice(description: str, *values: str) -> dict[str, Any]:
    return {
        "type": "String",
        "description": description,
        "allowedValues": list(values),
        "default": values[0],
    }


def _text(description: str, pattern: str) -> dict[str, Any]:
    return {
        "type": "String",
        "description": description,
        "allowedPattern": pattern,
        "default": "",
    }
