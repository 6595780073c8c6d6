"""Buildspecs: what is executed of them, and what is refused.

Source: "Build specification reference for CodeBuild" in the AWS CodeBuild User Guide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PHASES = ("install", "pre_build", "build", "post_build")
_SHELLS = ("bash", "/bin/bash")
_TOP = {"version", "env", "phases"}
_ENV = {"shell", "variables", "parameter-store", "secrets-manager"}
_PHASE = {"commands", "finally", "on-failure"}


class BuildspecError(Exception):
    """A buildspec is invalid, or contains what the local cloud does not execute."""


@dataclass(frozen=True)
class Phase:
    """The commands of a phase; with `aborts`, nothing runs after its failure."""

    name: str
    commands: tuple[str, ...] = ()
    finally_: tuple[str, ...] = ()
    aborts: bool = False


@dataclass(frozen=True)
class Buildspec:
    """A valid buildspec; `parameters` and `secrets` name the values of variables."""

    phases: tuple[Phase, ...]
    variables: Mapping[str, str]
    parameters: Mapping[str, str]
    secrets: Mapping[str, str]


def parse(text: str) -> Buildspec:
    """Parse a buildspec in JSON or YAML; raise BuildspecError if it cannot be executed."""
    document = _mapping("the buildspec", _load(text))
    _only("the buildspec", document, _TOP)
    if str(document.get("version")) != "0.2":
        raise BuildspecError(
            f"version: {document.get('version')!r} is not supported by the local cloud, only 0.2"
        )
    env = _mapping("env", document.get("env") or {})
    _only("env", env, _ENV)
    if env.get("shell") not in _SHELLS:
        # AWS uses /bin/sh then, which on its images is not always bash.
        raise BuildspecError(
            f"env.shell: {env.get('shell')!r} is not supported by the local cloud, only bash"
        )
    phases = _mapping("phases", document.get("phases"))
    _only("phases", phases, set(PHASES))
    if not phases:
        raise BuildspecError("phases: at least one phase is required")
    return Buildspec(
        phases=tuple(_phase(name, phases.get(name)) for name in PHASES),
        variables=_texts("env.variables", env.get("variables")),
        parameters=_texts("env.parameter-store", env.get("parameter-store")),
        secrets=_texts("env.secrets-manager", env.get("secrets-manager")),
    )


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        import yaml
    except ImportError as exc:  # the local extra installs it
        raise BuildspecError("a buildspec in YAML requires the package pyyaml") from exc
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise BuildspecError(f"the buildspec is neither JSON nor YAML: {exc}") from exc


def _phase(name: str, found: Any) -> Phase:
    if found is None:
        return Phase(name)
    phase = _mapping(f"phases.{name}", found)
    _only(f"phases.{name}", phase, _PHASE)
    on_failure = phase.get("on-failure")
    if on_failure not in {None, "ABORT"}:
        raise BuildspecError(
            f"phases.{name}.on-failure: {on_failure!r} is not supported by the local cloud, "
            "only ABORT"
        )
    return Phase(
        name,
        commands=_commands(f"phases.{name}.commands", phase.get("commands")),
        finally_=_commands(f"phases.{name}.finally", phase.get("finally")),
        aborts=on_failure == "ABORT",
    )


def _commands(where: str, found: Any) -> tuple[str, ...]:
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(command, str) for command in found):
        raise BuildspecError(f"{where}: must be a list of texts")
    return tuple(found)


def _texts(where: str, found: Any) -> dict[str, str]:
    texts = _mapping(where, found or {})
    return {
        name: "true" if value is True else "false" if value is False else str(value)
        for name, value in texts.items()
    }


def _mapping(where: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise BuildspecError(f"{where}: must be a mapping of names")
    return found


def _only(where: str, found: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(found) - known):
        raise BuildspecError(f"{where}: {unknown[0]} is not supported by the local cloud")
