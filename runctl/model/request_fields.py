"""The fields of the run request: what each may hold, for the check and for the published schema."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runctl.model.contract import problem_with_references
from runctl.model.identity import RUN_ID
from runctl.model.instance_types import check_instance_types
from runctl.model.kinds import KINDS, TRAIN
from runctl.model.request import (
    ANY,
    CREDENTIALS,
    DEFAULT_INSTANCE_TYPES,
    MARKETS,
    S3_URI,
    is_inside_project,
)
from runctl.model.script_kinds import problem_with_name
from runctl.model.secret_references import BadReferenceError, parse_reference

MAX_ENV_BYTES = 32 * 1024
MAX_ARGS_BYTES = 32 * 1024
INSTANCE_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
# What the agent sets for every trainer, so that another value would be lost.
OVERRIDDEN = {
    "PATH": "give a program by its whole path, or set it in a shell: "
    "--command sh -c 'PATH=/opt/bin:$PATH exec python train.py'",
    "VIRTUAL_ENV": "the environment is made from the project's requirements",
}
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Check = Callable[[Any], str | None]


@dataclass(frozen=True)
class Field:
    """One field of the request: its JSON Schema and the check that goes beyond it.

    `check` returns what is wrong and its cure, or None.
    """

    schema: Mapping[str, Any]
    check: Check


def _text(value: Any, what: str) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return f"{value!r} is not {what}"
    return None


def _check_script(value: Any) -> str | None:
    if problem := _text(value, "the path of a script"):
        return problem
    if value.startswith("s3://"):
        return None if S3_URI.fullmatch(value) else f"{value!r} is no s3://bucket/key"
    if not is_inside_project(value):
        return f"{value!r} leaves the project; give a path relative to the project folder"
    return None


def _check_script_name(value: Any) -> str | None:
    if problem := _check_script(value):
        return problem
    problem = problem_with_name(value)
    return f"{value!r} {problem}" if problem else None


def _check_args(value: Any) -> str | None:
    return _strings(MAX_ARGS_BYTES)(value) or problem_with_references(value) or None


def _check_code(value: Any) -> str | None:
    if isinstance(value, str) and S3_URI.fullmatch(value) and value.endswith(".tar.gz"):
        return None
    return f"{value!r} is no s3://bucket/key of a .tar.gz archive"


def _strings(largest: int) -> Check:
    def check(value: Any) -> str | None:
        # Neither names the value: it may contain a secret.
        if not isinstance(value, list | tuple):
            return f"a {type(value).__name__} is not a list of strings; quote each item"
        if others := [number for number, item in enumerate(value) if not isinstance(item, str)]:
            return f"item {others[0]} makes it not a list of strings; quote each item"
        if any("\0" in item for item in value):
            return "an item has a NUL character, which no program can take"
        size = sum(len(item.encode()) for item in value)
        if size > largest:
            return (
                f"{size} bytes are more than {largest}; put large values in a file of the project"
            )
        return None

    return check


def _check_command(value: Any) -> str | None:
    if problem := _strings(MAX_ARGS_BYTES)(value):
        return problem
    return None if value else "is empty; give the program and its arguments as a list"


def _check_env(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__} is not an object of names and strings"
    for name, text in value.items():
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            return f"{name!r} is no name of an environment variable"
        if name.startswith("RUNCTL_"):
            return f"{name} is set by runctl itself; choose a name without RUNCTL_"
        if name in OVERRIDDEN:
            return f"{name} is set by runctl itself; {OVERRIDDEN[name]}"
        if not isinstance(text, str) or "\0" in text:
            return f"{name} must be a string without NUL; quote it"
        try:
            parse_reference(text)
        except BadReferenceError as exc:
            return f"{name}: {exc}"
    size = sum(len(name.encode()) + len(text.encode()) for name, text in value.items())
    if size > MAX_ENV_BYTES:
        return (
            f"{size} bytes are more than {MAX_ENV_BYTES}; put large values in a file of the project"
        )
    return None


def _check_instance_id(value: Any) -> str | None:
    if isinstance(value, str) and INSTANCE_ID.fullmatch(value):
        return None
    return f"{value!r} is no instance id such as 'i-0123456789abcdef0'"


def _one_of(known: tuple[str, ...]) -> Check:
    return lambda value: None if value in known else f"{value!r} is none of {', '.join(known)}"


def _check_boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{value!r} is neither true nor false"


def _whole(least: int, most: int) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return f"{value!r} is not a whole number from {least} to {most}"
        return None

    return check


def _check_deadline(value: Any) -> str | None:
    try:
        instant = parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        return f"{value!r} is no instant with a time zone, such as '2030-01-31T18:00:00Z'"
    return None


def problem_with_deadline(deadline: datetime, now: datetime) -> str:
    """Say that a deadline is over before the run begins; empty if it is not."""
    if deadline > now:
        return ""
    return (
        f"{deadline.isoformat()} has passed (it is {now:%Y-%m-%dT%H:%M:%SZ}); give an instant in "
        "the future"
    )


def parse_instant(value: str) -> datetime:
    """Read an instant in ISO 8601; ValueError when it is none. Python 3.10 knows no Z."""
    return datetime.fromisoformat(value.replace("Z", "+00:00"))


def _check_checkpoint_dir(value: Any) -> str | None:
    if value == "":
        return None
    if problem := _text(value, "a folder"):
        return problem
    if not is_inside_project(value) or value.strip("./") == "":
        return f"{value!r} is not a folder inside the project; give a relative path"
    return None


_STRINGS = {"type": "array", "items": {"type": "string"}}

CHECKPOINT_FIELDS: Mapping[str, Field] = {
    "dir": Field(
        {
            "type": "string",
            "description": "Where the trainer saves, relative to the project. "
            "Default: the folder that RUNCTL_CHECKPOINT_DIR names.",
        },
        _check_checkpoint_dir,
    ),
    "keep_last": Field(
        {
            "type": "integer", "minimum": 1, "maximum": 1000, "default": 3,
            "description": "How many whole checkpoints stay.",
        },
        _whole(1, 1000),
    ),
    "grace_seconds": Field(
        {
            "type": "integer", "minimum": 0, "maximum": 90, "default": 90,
            "description": "How long the trainer may take to save after SIGTERM.",
        },
        _whole(0, 90),
    ),
    "interval": Field(
        {
            "type": "integer", "minimum": 0, "maximum": 86400, "default": 0,
            "description": "Seconds from one save that the trainer's helper is asked for to the "
            "next; 0 chooses by what a save costs and how often machines are taken.",
        },
        _whole(0, 86400),
    ),
}  # fmt: skip


def _check_exit_codes(value: Any) -> str | None:
    if value == ANY:
        return None
    if not isinstance(value, list | tuple):
        return f"{value!r} is not a list of exit codes such as [1, 137], or '{ANY}'"
    for code in value:
        if code == 0 and not isinstance(code, bool):
            return "0 is the exit code of success, which is never retried; remove it"
        if _whole(1, 255)(code):
            return f"{code!r} is not an exit code, which is a whole number from 1 to 255"
    if len(set(value)) != len(value):
        twice = next(code for code in value if list(value).count(code) > 1)
        return f"names {twice} twice"
    return None if value else f"is empty; name the exit codes to retry, or '{ANY}'"


RETRY_FIELDS: Mapping[str, Field] = {
    "exit_codes": Field(
        {
            "oneOf": [
                {
                    "type": "array", "minItems": 1, "uniqueItems": True,
                    "items": {"type": "integer", "minimum": 1, "maximum": 255},
                },
                {"const": ANY},
            ],
            "description": f"Exit codes of the trainer to retry, or `{ANY}`; 137 is a trainer that "
            "was killed, for lack of memory for example.",
        },
        _check_exit_codes,
    ),
    "max_failures": Field(
        {
            "type": "integer", "minimum": 1, "maximum": 100, "default": 3,
            "description": "How many failures of the run are retried; the next one ends it.",
        },
        _whole(1, 100),
    ),
}  # fmt: skip


def _check_object(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else f"{value!r} is not an object"


def _check_retry(value: Any) -> str | None:
    if problem := _check_object(value):
        return problem
    if "exit_codes" in value:
        return None
    return f"needs exit_codes; name those to retry, such as [1, 137], or '{ANY}'"


def _check_kind(value: Any) -> str | None:
    if isinstance(value, str) and value in KINDS:
        return None
    return f"{value!r} is not a valid kind; known values: {', '.join(KINDS)}"


FIELDS: Mapping[str, Field] = {
    "kind": Field(
        {
            "enum": list(KINDS), "default": TRAIN,
            "description": "What the run is, which decides what follows the end of an attempt.",
        },
        _check_kind,
    ),
    "script": Field(
        {
            "type": "string",
            "description": "The program: a path inside `code`, or an s3:// URI of one file.",
        },
        _check_script_name,
    ),
    "command": Field(
        {
            **_STRINGS, "minItems": 1,
            "description": "Any program and its arguments, in place of a script; references to "
            "the trainer's variables are replaced as in `args`.",
        },
        _check_command,
    ),
    "code": Field(
        {
            "type": "string", "pattern": r"^s3://.+\.tar\.gz$",
            "description": "The packed project; `runctl aws train` makes and uploads it.",
        },
        _check_code,
    ),
    "args": Field(
        {
            **_STRINGS, "default": [],
            "description": "What follows the script. No shell sees it: only `$RUNCTL_NAME` and "
            "`${RUNCTL_NAME}` of the trainer contract are replaced.",
        },
        _check_args,
    ),
    "resume_args": Field(
        {
            **_STRINGS, "default": [],
            "description": "More arguments, at the end, whenever there is a checkpoint to resume "
            "from; references are replaced as in `args`.",
        },
        _check_args,
    ),
    "env": Field(
        {
            "type": "object", "additionalProperties": {"type": "string"}, "default": {},
            "description": f"The trainer's own variables, {MAX_ENV_BYTES} bytes at most. "
            "The ledger keeps them, so a secret is given by reference: `secret:NAME`, "
            "`secret:NAME#KEY` or `ssm:/PATH`.",
        },
        _check_env,
    ),
    "not_secrets": Field(
        {
            **_STRINGS, "default": [],
            "description": "Variables of `env` and options of the arguments whose values look like "
            "secrets and are not; without it such a request is refused.",
        },
        _strings(MAX_ARGS_BYTES),
    ),
    "instance_id": Field(
        {
            "type": "string", "pattern": f"^{INSTANCE_ID.pattern}$",
            "description": "A machine that is there already, for the first attempt only; those "
            "after it are launched. It is not ended with the run.",
        },
        _check_instance_id,
    ),
    "instance_types": Field(
        {
            **_STRINGS, "minItems": 1, "maxItems": 40, "default": list(DEFAULT_INSTANCE_TYPES),
            "description": "What the run may use; ten or more types are interrupted less often.",
        },
        check_instance_types,
    ),
    "market": Field(
        {"enum": list(MARKETS), "default": "spot", "description": "Where capacity is bought."},
        _one_of(MARKETS),
    ),
    "credentials": Field(
        {
            "enum": list(CREDENTIALS), "default": "none",
            "description": "AWS credentials for the trainer: with `run` it may read what belongs "
            "to its run and the deployment's `readable_buckets`, and write its outputs.",
        },
        _one_of(CREDENTIALS),
    ),
    "auto_resume": Field(
        {
            "type": "boolean", "default": True,
            "description": "Relaunch after an interruption; otherwise end as interrupted.",
        },
        _check_boolean,
    ),
    "max_attempts": Field(
        {
            "type": "integer", "minimum": 1, "maximum": 1000, "default": 100,
            "description": "How many attempts may be launched.",
        },
        _whole(1, 1000),
    ),
    "deadline": Field(
        {
            "type": "string", "format": "date-time",
            "description": "No attempt is launched after this instant.",
        },
        _check_deadline,
    ),
    "checkpoint": Field(
        {
            "type": "object", "additionalProperties": False,
            "properties": {name: dict(f.schema) for name, f in CHECKPOINT_FIELDS.items()},
            "description": "How checkpoints are taken.",
        },
        _check_object,
    ),
    "retry": Field(
        {
            "type": "object", "additionalProperties": False, "required": ["exit_codes"],
            "properties": {name: dict(f.schema) for name, f in RETRY_FIELDS.items()},
            "description": "Which failures of the trainer itself are retried from the newest "
            "checkpoint, as a new attempt. Default: none.",
        },
        _check_retry,
    ),
}  # fmt: skip


# The fields that are objects, with the fields of each.
NESTED_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "checkpoint": CHECKPOINT_FIELDS,
    "retry": RETRY_FIELDS,
}


def request_schema() -> dict[str, Any]:
    """Return the published JSON Schema of the execution input."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "RunRequest",
        "description": "The input of an execution. `run_id` alone continues an ended run.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **{name: dict(f.schema) for name, f in FIELDS.items()},
            "run_id": {
                "type": "string",
                "pattern": f"^{RUN_ID.pattern}$",
                "description": "The run that this execution continues; it stands alone.",
            },
        },
        "oneOf": [
            {"required": ["script"]},
            {"required": ["command"]},
            {"required": ["run_id"]},
        ],
    }
