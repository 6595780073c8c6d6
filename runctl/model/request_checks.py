"""Checks of the values in a run request: each returns the problem and its remedy, or None."""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any

from runctl.model.contract import problem_with_references
from runctl.model.s3_uri import S3_URI
from runctl.model.script_kinds import problem_with_name
from runctl.model.secret_references import BadReferenceError, parse_reference

ANY = "any"
MAX_ENV_BYTES = 32 * 1024
MAX_ARGS_BYTES = 32 * 1024
INSTANCE_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
# The agent sets these for every trainer, so a value from the request would be lost.
OVERRIDDEN = {
    "PATH": "give a program by its absolute path, or set it in a shell: "
    "--command sh -c 'PATH=/opt/bin:$PATH exec python train.py'",
    "VIRTUAL_ENV": "the environment is made from the project's requirements",
}
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Check = Callable[[Any], str | None]


def check_script(value: Any) -> str | None:
    """Check the path of a script in the project, or the S3 URI of one."""
    if not _is_text(value):
        return f"{value!r} is not the path of a script (e.g. train.py)"
    if value.startswith("s3://"):
        if not S3_URI.fullmatch(value):
            return f"{value!r} is not a valid S3 URI (s3://bucket/key)"
    elif not is_inside_project(value):
        return f"{value!r} is outside the project; give a path relative to the project folder"
    problem = problem_with_name(value)
    return f"{value!r} {problem}" if problem else None


def check_code(value: Any) -> str | None:
    """Check the S3 URI of a packed project."""
    if isinstance(value, str) and S3_URI.fullmatch(value) and value.endswith(".tar.gz"):
        return None
    return f"{value!r} is not the S3 URI of a .tar.gz archive (s3://bucket/key.tar.gz)"


def check_strings(value: Any) -> str | None:
    """Check a list of strings; the message leaves out the strings, which may contain secrets."""
    if not isinstance(value, list | tuple):
        return f"must be a list of strings, not {json_type(value)}; quote each item"
    for number, item in enumerate(value):
        if not isinstance(item, str):
            return f"item {number} must be a string, not {json_type(item)}; quote it"
        if "\0" in item:
            return f"item {number} contains a NUL character, which no program accepts; remove it"
    return _check_size(sum(len(item.encode()) for item in value), MAX_ARGS_BYTES)


def check_arguments(value: Any) -> str | None:
    """Check arguments, in which references to the trainer contract are replaced."""
    return check_strings(value) or problem_with_references(value) or None


def check_command(value: Any) -> str | None:
    """Check a program and its arguments."""
    if problem := check_strings(value):
        return problem
    return None if value else "must not be empty; give the program and its arguments as a list"


def check_env(value: Any) -> str | None:
    """Check environment variables."""
    if not isinstance(value, Mapping):
        return f"must be an object of names and strings, not {json_type(value)}"
    for name, text in value.items():
        if problem := _problem_with_variable(name, text):
            return problem
    size = sum(len(name.encode()) + len(text.encode()) for name, text in value.items())
    return _check_size(size, MAX_ENV_BYTES)


def _problem_with_variable(name: Any, text: Any) -> str | None:
    if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
        return (
            f"{name!r} is not a valid variable name; use letters, digits and _, and begin with a "
            "letter or _"
        )
    if name.startswith("RUNCTL_"):
        return f"{name} is set by runctl itself; choose a name that does not begin with RUNCTL_"
    if name in OVERRIDDEN:
        return f"{name} is set by runctl itself; {OVERRIDDEN[name]}"
    if not isinstance(text, str):
        return f"{name} must be a string, not {json_type(text)}; quote it"
    if "\0" in text:
        return f"{name} contains a NUL character, which no variable can hold; remove it"
    try:
        parse_reference(text)
    except BadReferenceError as exc:
        return f"{name}: {exc}"
    return None


def _check_size(size: int, limit: int) -> str | None:
    if size <= limit:
        return None
    return f"{size} bytes exceed the limit of {limit}; put large values into a file of the project"


def check_instance_id(value: Any) -> str | None:
    """Check the id of an instance."""
    if isinstance(value, str) and INSTANCE_ID.fullmatch(value):
        return None
    return f"{value!r} is not a valid instance id (e.g. i-0123456789abcdef0)"


def check_boolean(value: Any) -> str | None:
    """Check a boolean."""
    return None if isinstance(value, bool) else f"{value!r} is not a boolean; use true or false"


def check_instant(value: Any) -> str | None:
    """Check a date and time, which must have a time zone."""
    try:
        instant = parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        return f"{value!r} is not a date and time with a time zone (e.g. 2030-01-31T18:00:00Z)"
    return None


def parse_instant(value: str) -> datetime:
    """Read a date and time in ISO 8601; Python 3.10 does not know `Z`."""
    return datetime.fromisoformat(value.replace("Z", "+00:00"))


def problem_with_deadline(deadline: datetime, now: datetime) -> str:
    """Return why a run cannot start if its deadline has passed; empty otherwise."""
    if deadline > now:
        return ""
    return (
        f"{deadline.isoformat()} has passed (it is {now:%Y-%m-%dT%H:%M:%SZ}); give an instant in "
        "the future"
    )


def check_checkpoint_dir(value: Any) -> str | None:
    """Check the folder in which the trainer saves."""
    if value == "":
        return None
    if not _is_text(value) or not is_inside_project(value) or value.strip("./") == "":
        return f"{value!r} is not a folder inside the project; give a relative path"
    return None


def check_exit_codes(value: Any) -> str | None:
    """Check the exit codes after which a trainer is retried."""
    if value == ANY:
        return None
    if not isinstance(value, list | tuple):
        return f"{value!r} is not a list of exit codes (e.g. [1, 137]) or '{ANY}'"
    for code in value:
        if code == 0 and not isinstance(code, bool):
            return "0 is the exit code of success, which is never retried; remove it"
        if whole_number(1, 255)(code):
            return f"{code!r} is not a valid exit code; use whole numbers from 1 to 255"
    if len(set(value)) != len(value):
        twice = next(code for code in value if list(value).count(code) > 1)
        return f"{twice} is listed twice; remove one"
    return None if value else f"must not be empty; list the exit codes to retry, or use '{ANY}'"


def one_of(choices: Collection[str], noun: str) -> Check:
    """Return the check of a value that must be one of the choices."""

    def check(value: Any) -> str | None:
        if isinstance(value, str) and value in choices:
            return None
        return f"{value!r} is not a valid {noun}; known values: {', '.join(choices)}"

    return check


def whole_number(least: int, most: int) -> Check:
    """Return the check of a whole number within limits."""

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return f"{value!r} is not a whole number from {least} to {most}"
        return None

    return check


def check_fraction(value: Any) -> str | None:
    """Check a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return f"{value!r} is not a number from 0 to 1 (e.g. 0.01)"
    return None


def is_inside_project(path: str) -> bool:
    """Whether a relative path stays below the project folder."""
    parts = path.replace("\\", "/").split("/")
    return bool(path) and not path.startswith(("/", "~")) and ".." not in parts


def json_type(value: Any) -> str:
    """Return the type of a value in the words of JSON, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
    return f"a {type(value).__name__}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
