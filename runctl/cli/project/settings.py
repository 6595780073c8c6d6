"""The settings file `.runctl.toml`: a project's defaults for its runs."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runctl.cli.project.folder import look_upwards, read_regular_file
from runctl.cli.project.scan import MAX_PROJECT_BYTES
from runctl.model.errors import SettingsError
from runctl.model.request import FIELDS
from runctl.model.request_fields import Field

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REQUEST_SETTINGS = tuple(name for name, field in FIELDS.items() if field.is_setting)
AWS_SETTINGS = ("profile", "region", "deployment")
PROJECT_SETTINGS = ("max_size_mb",)
_MAX_BYTES = 1_000_000
# A TOML parser takes quadratic time for a dotted key: minutes for one of 50,000 parts.
_MAX_DOTS = 1_000
_MAX_MESSAGE_LENGTH = 1_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The contents of the file; `request` holds fields of the run request.

    `path` is None if there is no file.
    """

    path: Path | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    profile: str = ""
    region: str = ""
    deployment: str = ""
    largest_project_bytes: int = MAX_PROJECT_BYTES


def read_settings(folder: Path, *, is_named: bool = False) -> Settings:
    """Read the nearest `.runctl.toml` from `folder` upwards; raises SettingsError if invalid."""
    found = look_upwards(folder, is_named=is_named)
    return parse_settings(found.settings) if found.settings is not None else Settings()


def parse_settings(path: Path) -> Settings:
    """Return the settings of one file; raises SettingsError with all of its problems."""
    try:
        text = read_regular_file(path, most=_MAX_BYTES).decode()
        for number, line in enumerate(text.splitlines(), 1):
            if line.count(".") > _MAX_DOTS:
                raise ValueError(f"line {number} has more than {_MAX_DOTS:,} dots")
        document = tomllib.loads(text)
    except RecursionError as exc:
        raise SettingsError(f"{path} cannot be read: its values are nested too deeply") from exc
    except (ValueError, OSError) as exc:  # invalid TOML or UTF-8, or a number with too many digits
        raise SettingsError(f"{path} cannot be read: {exc}") from exc
    problems = [
        *_check(document, (*REQUEST_SETTINGS, "aws", "project")),
        *_check(_table(document, "aws"), AWS_SETTINGS, prefix="aws."),
        *_check(_table(document, "project"), PROJECT_SETTINGS, prefix="project."),
        *_check_objects(document, FIELDS),
    ]
    if problems:
        message = "; ".join(problems)
        cut = "…" if len(message) > _MAX_MESSAGE_LENGTH else ""
        raise SettingsError(f"{path}: {message[:_MAX_MESSAGE_LENGTH]}{cut}")
    aws = document.get("aws", {})
    megabytes = document.get("project", {}).get("max_size_mb")
    return Settings(
        path=path,
        request={name: document[name] for name in REQUEST_SETTINGS if name in document},
        profile=aws.get("profile", ""),
        region=aws.get("region", ""),
        deployment=aws.get("deployment", ""),
        largest_project_bytes=MAX_PROJECT_BYTES if megabytes is None else megabytes * 1_000_000,
    )


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name, {})
    return value if isinstance(value, Mapping) else {}


def _check(values: Mapping[str, Any], known: Any, *, prefix: str = "") -> list[str]:
    problems = []
    for name, value in values.items():
        if name not in known:
            problems.append(f"{prefix}{name} is unknown{_nearest(name, known, prefix)}")
        elif problem := _problem_with(f"{prefix}{name}", value):
            problems.append(f"{prefix}{name}: {problem}")
    return problems


def _check_objects(
    document: Mapping[str, Any], fields: Mapping[str, Field], *, prefix: str = ""
) -> list[str]:
    """Check the tables of a table, each of which is an object of the request."""
    problems: list[str] = []
    for name, known in fields.items():
        if known.fields:
            table, path = _table(document, name), f"{prefix}{name}."
            problems += _check(table, known.fields, prefix=path)
            problems += _check_objects(table, known.fields, prefix=path)
    return problems


def _nearest(name: str, known: Any, prefix: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(known)}"


def _problem_with(name: str, value: Any) -> str | None:
    section, dot, _ = name.partition(".")
    if not dot and section in {"aws", "project"}:
        is_table = isinstance(value, Mapping)
        return None if is_table else f"{value!r} is not a table; write [{section}]"
    if section == "aws":
        return None if isinstance(value, str) and value else f"{value!r} is not a name"
    if section == "project":
        is_whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 5000
        return None if is_whole else f"{value!r} is not a whole number from 1 to 5000"
    *outer, key = name.split(".")
    fields: Mapping[str, Field] = FIELDS
    for part in outer:
        fields = fields[part].fields
    try:
        return fields[key].check(value)
    except ValueError:  # a number that Python refuses to print
        return "contains a number with too many digits"


TEMPLATE = """\
# Defaults for `runctl aws train` in this folder; command-line options override them.

# Instance types that a run may use. With ten or more, runs are interrupted less often.
# instance_types = ["g5.xlarge", "g6.xlarge", "g4dn.xlarge"]

# Where capacity is bought: "spot", "on-demand" or "spot-then-on-demand".
market = "spot"

# Relaunch after an interruption, and the maximum number of attempts.
auto_resume = true
max_attempts = 100

# Train on several nodes, and continue with fewer while a lost one cannot be replaced.
# nodes = 4
# min_nodes = 2

# AWS credentials for the trainer: "none", or "run" for credentials limited to its own run.
# credentials = "run"

[checkpoint]
# How many complete checkpoints to keep, and how long the trainer may save after SIGTERM.
keep_last = 3
grace_seconds = 90
# Where the trainer saves, unless it uses the folder that RUNCTL_CHECKPOINT_DIR names.
# dir = "checkpoints"

# The failures of the trainer itself to retry from the newest checkpoint, and their maximum.
# [retry]
# exit_codes = [1, 137]
# max_failures = 3

# The disk of each instance, if the deployment's is too small or too slow.
# [disk]
# gib = 500
# throughput = 500

# Objects of S3 that are in RUNCTL_INPUT_DIR/NAME before the program starts.
# [inputs]
# cifar = "s3://bucket/cifar/"

# The trainer's environment variables; secrets are given by reference, never by value.
# [env]
# OMP_NUM_THREADS = "4"
# WANDB_API_KEY = "secret:wandb"

# How services are probed (`runctl aws serve`).
# [serve]
# probe_path = "/health"

# [aws]
# profile = "research"
# region = "eu-central-1"
# deployment = "runctl"

# [project]
# max_size_mb = 256
"""
