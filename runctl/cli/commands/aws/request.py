"""The run request of `runctl aws train`, built from options and settings."""

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import PurePath
from typing import Any

from runctl.cli.commands.aws.field_options import fields_with_options
from runctl.cli.project.settings import Settings
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.identity import RUN_ID, RUN_ID_RULE
from runctl.model.kinds import TRAIN
from runctl.model.request import FIELDS
from runctl.model.request_checks import parse_instant, problem_with_deadline
from runctl.model.request_fields import Syntax
from runctl.model.request_parsing import parse_request

# How the command line sets a field, by the field's path.
ORIGINS = {
    "instance_id": "INSTANCE",
    **{path: option.name for _, path, _, option in fields_with_options()},
}
# The fields whose values have names, such as environment variables.
NAMED = frozenset(
    path for _, path, _, option in fields_with_options() if option.syntax is Syntax.ASSIGNMENTS
)


def name_run(script: str, *, now: datetime) -> str:
    """Return a readable and unique name for a run."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", PurePath(script).stem).strip("-")[:32].strip("-")
    moment = now.astimezone(timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{stem or 'run'}-{moment}-{secrets.token_hex(2)}"


def check_name(name: str) -> None:
    """Refuse an invalid run name."""
    if not RUN_ID.fullmatch(name):
        similar = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:64]
        hint = f"; for example {similar}" if similar else ""
        raise InvalidRequestError((Problem("--name", f"{name!r} is not {RUN_ID_RULE}{hint}"),))


def check_deadline(document: Mapping[str, Any], *, now: datetime) -> None:
    """Refuse a deadline that has passed."""
    if "deadline" not in document:
        return
    if problem := problem_with_deadline(parse_instant(document["deadline"]), now):
        raise InvalidRequestError((Problem(ORIGINS["deadline"], problem),))


def build_request(
    script: str,
    args: Sequence[str],
    *,
    options: Mapping[str, Any],
    settings: Settings,
    code: str,
    is_command: bool = False,
) -> dict[str, Any]:
    """Return the execution input, without fields that have their default value.

    `options` holds the fields given on the command line, with a dot for fields of an object;
    `script` and `args` are the request's command if `is_command`; both are empty for the command of
    an image. Raises InvalidRequestError whose
    problems name the option or the settings file from which a value comes.
    """
    program: dict[str, Any] = {"script": script} if script else {}
    if is_command:
        program = {"command": [script, *args]}
    kind = options.get("kind", TRAIN)
    given = {
        name: value for name, value in settings.request.items() if FIELDS[name].kind in {"", kind}
    }
    document: dict[str, Any] = {**program, **given}
    if code:
        document["code"] = code
    if args and not is_command:
        document["args"] = list(args)
    for name, value in options.items():
        outer, dot, inner = name.partition(".")
        if dot:
            held = document.get(outer, {})
            document[outer] = {**held, inner: _merged(name, held.get(inner), value)}
        else:
            document[name] = _merged(name, document.get(name), value)
    if "not_secrets" in options:
        document["not_secrets"] = declared_harmless(options, settings)
    try:
        parse_request(document)
    except InvalidRequestError as exc:
        raise InvalidRequestError(
            tuple(
                Problem(_origin(problem.field, options, settings), problem.message)
                for problem in exc.problems
            )
        ) from exc
    return document


def _merged(field: str, setting: Any, option: Any) -> Any:
    """Return an option's value, with the setting's entries of other names if it has names."""
    if field in NAMED and isinstance(setting, Mapping):
        return {**setting, **option}
    return option


def declared_harmless(options: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return what options and settings together declare not to be secrets."""
    declared = [*settings.request.get("not_secrets", []), *options.get("not_secrets", [])]
    return list(dict.fromkeys(declared))


def _origin(field: str, options: Mapping[str, Any], settings: Settings) -> str:
    if field in options:
        return ORIGINS.get(field, field)
    if field.startswith("resume_args[") and "resume_args" in options:
        return ORIGINS["resume_args"]
    outer, dot, name = field.rpartition(".")
    if dot and name in options.get(outer, {}):  # a variable of env or docker.build_args
        return f"{ORIGINS[outer]} {name}"
    inner = next((option for option in options if option.startswith(f"{field}.")), None)
    if inner is not None:
        return ORIGINS.get(inner, inner)
    if settings.path is not None and field.partition(".")[0] in settings.request:
        return f"{settings.path.name}: {field}"
    return ORIGINS.get(field, field)  # it is missing
