"""The Command documents of SSM: scripts with parameters that run on instances."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runctl.local.core.protocol import ApiError

_PLACEHOLDER = re.compile(r"\{\{\s*([\w-]+)\s*\}\}")
_SHELL = "aws:runShellScript"
_DEFAULT_TIMEOUT_SECONDS = 3600
Parameters = Mapping[str, list[str]]


@dataclass(frozen=True)
class Step:
    """A shell script of a document, with its parameters filled in."""

    name: str
    script: str
    timeout_seconds: float
    working_directory: str | None = None


@dataclass(frozen=True)
class Document:
    """A Command document of schema 2.2."""

    name: str
    content: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)

    def fill_in(self, given: Parameters) -> list[Step]:
        """Fill the parameters into the scripts, or refuse them as SSM does."""
        values = self._values(given)
        steps = []
        for step in self.content.get("mainSteps", []):
            if step["action"] != _SHELL:
                raise ApiError(
                    "UnsupportedOperation",
                    f"The local cloud runs {_SHELL} only, not {step['action']}",
                )
            inputs = {key: _fill(value, values) for key, value in step.get("inputs", {}).items()}
            lines = inputs.get("runCommand", [])
            steps.append(
                Step(
                    name=step["name"],
                    script="\n".join(lines if isinstance(lines, list) else [lines]),
                    timeout_seconds=float(inputs.get("timeoutSeconds") or _DEFAULT_TIMEOUT_SECONDS),
                    working_directory=inputs.get("workingDirectory") or None,
                )
            )
        return steps

    def _values(self, given: Parameters) -> dict[str, Any]:
        known = self.content.get("parameters", {})
        if unknown := set(given) - set(known):
            raise ApiError("InvalidParameters", f"{self.name} has no {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {}
        for name, rules in known.items():
            if name not in given and "default" not in rules:
                raise ApiError("InvalidParameters", f"{self.name} needs the parameter {name}")
            if name not in given:
                values[name] = rules["default"]
                continue
            words = given[name]
            for word in words:
                _check(name, rules, word)
            values[name] = words if rules.get("type") == "StringList" else words[0]
        return values


def _check(name: str, rules: Mapping[str, Any], word: str) -> None:
    pattern, allowed = rules.get("allowedPattern"), rules.get("allowedValues")
    if pattern and not re.search(pattern, word):
        raise ApiError("InvalidParameters", f"{name}: {word!r} does not match {pattern}")
    if allowed and word not in allowed:
        raise ApiError("InvalidParameters", f"{name}: {word!r} is not one of {allowed}")
    if len(word) > int(rules.get("maxChars", 2**31)):
        raise ApiError("InvalidParameters", f"{name} is longer than {rules['maxChars']}")


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [filled for item in value for filled in _fill_item(item, values)]
    return _fill_text(value, values) if isinstance(value, str) else value


def _fill_item(item: Any, values: Mapping[str, Any]) -> list[Any]:
    # A list parameter that is a whole line becomes a line for each value.
    match = _PLACEHOLDER.fullmatch(item.strip()) if isinstance(item, str) else None
    if match and isinstance(values.get(match.group(1)), list):
        return list(values[match.group(1)])
    return [_fill_text(item, values) if isinstance(item, str) else item]


def _fill_text(text: str, values: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        found = values.get(match.group(1), match.group(0))
        return found if isinstance(found, str) else json.dumps(found)

    return _PLACEHOLDER.sub(value, text)


RUN_SHELL_SCRIPT = Document(
    name="AWS-RunShellScript",
    content={
        "schemaVersion": "1.2",
        "parameters": {
            "commands": {"type": "StringList"},
            "workingDirectory": {"type": "String", "default": ""},
            "executionTimeout": {"type": "String", "default": "3600"},
        },
        "mainSteps": [
            {
                "action": _SHELL,
                "name": "runShellScript",
                "inputs": {
                    "runCommand": ["{{ commands }}"],
                    "workingDirectory": "{{ workingDirectory }}",
                    "timeoutSeconds": "{{ executionTimeout }}",
                },
            }
        ],
    },
)
