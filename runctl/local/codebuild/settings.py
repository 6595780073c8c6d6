"""What a build is started with: its project's settings, and those that StartBuild overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runctl.local.core.protocol import ApiError

Json = dict[str, Any]

# Members of a project in addition to those that ministack keeps.
KEPT = (
    "logsConfig",
    "queuedTimeoutInMinutes",
    "cache",
    "vpcConfig",
    "secondarySources",
    "secondaryArtifacts",
    "fileSystemLocations",
    "buildBatchConfig",
    "concurrentBuildLimit",
    "autoRetryLimit",
)
_TYPES_OF: Mapping[str, tuple[str, ...]] = {
    "source": ("NO_SOURCE", "S3"),
    "artifacts": ("NO_ARTIFACTS",),
    "cache": ("NO_CACHE",),
    "environment": ("LINUX_CONTAINER", "ARM_CONTAINER"),
}
_UNSUPPORTED = (
    "vpcConfig",
    "secondarySources",
    "secondaryArtifacts",
    "fileSystemLocations",
    "concurrentBuildLimit",
    "autoRetryLimit",
)
_UNSUPPORTED_IN_ENVIRONMENT = ("certificate", "registryCredential", "fleet", "dockerServer")
# What each override of StartBuild replaces, as a path in the project.
_OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "sourceVersion": ("sourceVersion",),
    "sourceTypeOverride": ("source", "type"),
    "sourceLocationOverride": ("source", "location"),
    "buildspecOverride": ("source", "buildspec"),
    "artifactsOverride": ("artifacts",),
    "cacheOverride": ("cache",),
    "environmentTypeOverride": ("environment", "type"),
    "imageOverride": ("environment", "image"),
    "computeTypeOverride": ("environment", "computeType"),
    "privilegedModeOverride": ("environment", "privilegedMode"),
    "imagePullCredentialsTypeOverride": ("environment", "imagePullCredentialsType"),
    "logsConfigOverride": ("logsConfig",),
    "serviceRoleOverride": ("serviceRole",),
    "timeoutInMinutesOverride": ("timeoutInMinutes",),
    "queuedTimeoutInMinutesOverride": ("queuedTimeoutInMinutes",),
    "encryptionKeyOverride": ("encryptionKey",),
}
_OTHERS = {"projectName", "environmentVariablesOverride", "idempotencyToken"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPES = ("PLAINTEXT", "PARAMETER_STORE", "SECRETS_MANAGER")
_DEFAULT_MINUTES, _DEFAULT_QUEUED_MINUTES = 60, 480


@dataclass(frozen=True)
class Variable:
    """An environment variable: its value, or the parameter or secret that has the value."""

    name: str
    value: str
    kind: str = "PLAINTEXT"


def effective(project: Mapping[str, Any], request: Mapping[str, Any]) -> Json:
    """Return the settings of a build; raise ApiError if the local cloud cannot apply them."""
    settings: Json = {
        **project,
        "source": dict(project.get("source") or {}),
        "environment": dict(project.get("environment") or {}),
    }
    for name, value in request.items():
        if name in _OTHERS or value is None:
            continue
        if name not in _OVERRIDES:
            raise _unsupported(name)
        *path, last = _OVERRIDES[name]
        target = settings
        for part in path:
            target = target[part]
        target[last] = value
    environment = settings["environment"]
    environment["environmentVariables"] = _merged(
        environment.get("environmentVariables") or [],
        request.get("environmentVariablesOverride") or [],
    )
    settings.setdefault("timeoutInMinutes", _DEFAULT_MINUTES)
    settings.setdefault("queuedTimeoutInMinutes", _DEFAULT_QUEUED_MINUTES)
    _check(settings)
    return settings


def variables(settings: Mapping[str, Any]) -> list[Variable]:
    """List the variables of the project and the request."""
    return [
        Variable(found["name"], found.get("value", ""), found.get("type") or "PLAINTEXT")
        for found in settings["environment"]["environmentVariables"]
    ]


def log_names(settings: Mapping[str, Any], unique: str) -> tuple[str, str] | None:
    """Return the log group and stream of a build; None if it has no log."""
    config = (settings.get("logsConfig") or {}).get("cloudWatchLogs") or {}
    if config.get("status", "ENABLED") == "DISABLED":
        return None
    group = config.get("groupName") or f"/aws/codebuild/{settings['name']}"
    prefix = config.get("streamName")
    return group, f"{prefix}/{unique}" if prefix else unique


def _merged(own: list[Json], overriding: list[Json]) -> list[Json]:
    by_name = {found.get("name", ""): found for found in (*own, *overriding)}
    for name, found in by_name.items():
        if not _NAME.fullmatch(name) or name.startswith("CODEBUILD_"):
            raise _invalid(f"environment variable {name!r}: the name is not valid")
        if found.get("type", "PLAINTEXT") not in _TYPES:
            raise _invalid(f"environment variable {name}: type {found['type']!r} is not valid")
        if "\0" in found.get("value", ""):
            raise _invalid(f"environment variable {name}: the value contains a NUL character")
    return list(by_name.values())


def _check(settings: Mapping[str, Any]) -> None:
    for group, supported in _TYPES_OF.items():
        kind = (settings.get(group) or {}).get("type", supported[0])
        if kind not in supported:
            raise _unsupported(f"{group}.type {kind}")
    source = settings["source"]
    if source.get("type") == "NO_SOURCE" and not source.get("buildspec"):
        raise _invalid("source.buildspec: is required when the source type is NO_SOURCE")
    if (settings.get("logsConfig") or {}).get("s3Logs", {}).get("status") == "ENABLED":
        raise _unsupported("logsConfig.s3Logs")
    for name in _UNSUPPORTED:
        if settings.get(name):
            raise _unsupported(name)
    for name in _UNSUPPORTED_IN_ENVIRONMENT:
        if settings["environment"].get(name):
            raise _unsupported(f"environment.{name}")


def _unsupported(what: str) -> ApiError:
    return _invalid(f"{what} is not supported by the local cloud")


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidInputException", message)
