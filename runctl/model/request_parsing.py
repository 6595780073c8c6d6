"""Checking a run request: every problem of every field in one message."""

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import timezone
from typing import Any

from runctl.model.contract import problem_with_references
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.kinds import TRAIN
from runctl.model.plain_secrets import PlainSecret, find_plain_secrets
from runctl.model.request import CheckpointOptions, RetryOptions, RunRequest
from runctl.model.request_fields import FIELDS, NESTED_FIELDS, Field, parse_instant


def parse_request(document: Any) -> RunRequest:
    """Check an execution input and return the request.

    Raises InvalidRequestError with every problem of every field at once.
    """
    if not isinstance(document, Mapping):
        raise InvalidRequestError((Problem("input", "must be a JSON object"),))
    if problem := FIELDS["kind"].check(document.get("kind", TRAIN)):
        # The fields of another kind are not known either, so more problems would only confuse.
        raise InvalidRequestError((Problem("kind", problem),))
    problems = [*_problems(document, FIELDS, prefix="")]
    for name, fields in NESTED_FIELDS.items():
        if isinstance(inner := document.get(name, {}), Mapping):
            problems += _problems(inner, fields, prefix=f"{name}.")
    problems += _contradictions(document)
    problems += [
        Problem(one.where, problem_with_secret(one)) for one in find_plain_secrets(document)
    ]
    if problems:
        raise InvalidRequestError(tuple(problems))
    read_below = {*NESTED_FIELDS, "deadline"}
    given = {key: value for key, value in document.items() if key not in read_below}
    for key in ("command", "args", "resume_args", "instance_types", "not_secrets"):
        if key in given:
            given[key] = tuple(given[key])
    deadline = document.get("deadline")
    return RunRequest(
        **given,
        checkpoint=CheckpointOptions(**document.get("checkpoint", {})),
        retry=RetryOptions.from_document(document["retry"])
        if "retry" in document
        else RetryOptions(),
        deadline=parse_instant(deadline).astimezone(timezone.utc) if deadline is not None else None,
    )


def _problems(
    document: Mapping[str, Any], fields: Mapping[str, Field], *, prefix: str
) -> list[Problem]:
    found = []
    for name, value in document.items():
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = (
                f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(fields)}"
            )
            found.append(Problem(f"{prefix}{name}", f"unknown field{hint}"))
        elif problem := fields[name].check(value):
            found.append(Problem(f"{prefix}{name}", problem))
    return found


def problem_with_secret(found: PlainSecret) -> str:
    """Return why a value is refused that looks like a secret, and what to do, without the value."""
    outer, _, name = found.where.partition(".")
    if outer == "env":
        remedy = (
            f"keep it in Secrets Manager or Parameter Store and give {name}=secret:NAME or "
            f"{name}=ssm:/PATH"
        )
    else:
        remedy = (
            "arguments are shown in the machine's process list as well: keep it in Secrets Manager "
            "or Parameter Store, give NAME=secret:NAME or NAME=ssm:/PATH in env, and let the "
            "program read the variable"
        )
    return (
        f"the value looks like a secret ({found.reason}), and requests are stored and shown; "
        f"{remedy}. If it is not a secret, add {found.label!r} to not_secrets (--not-secret)"
    )


def _problem_with_command(command: Sequence[Any]) -> str:
    """Check the words that no shell sees; a text of several words is likely a shell's program."""
    words = [word for word in command if isinstance(word, str)]
    return problem_with_references([word for word in words if not re.search(r"\s", word)])


def _contradictions(document: Mapping[str, Any]) -> list[Problem]:
    script, command = document.get("script"), document.get("command")
    if script is None and command is None:
        return [Problem("script", "is missing; give the path of a script, or a command")]
    found = []
    if script is not None and command is not None:
        found.append(Problem("command", "stands beside script; give one of the two"))
    if command is not None and document.get("args"):
        found.append(Problem("args", "belong to a script; put them into command"))
    if isinstance(command, list | tuple) and (problem := _problem_with_command(command)):
        found.append(Problem("command", problem))
    env = document.get("env")
    if document.get("credentials") == "run" and isinstance(env, Mapping):
        found += [
            Problem("env", f"{name} is set by runctl itself with credentials: run; leave it out")
            for name in env
            if str(name).startswith("AWS_CONTAINER_")
        ]
    if isinstance(script, str) and not script.startswith("s3://") and not document.get("code"):
        found.append(
            Problem(
                "script",
                f"{script!r} is a path inside a project, but there is no code; "
                "give an s3:// URI, or code",
            )
        )
    if isinstance(script, str) and script.startswith("s3://") and document.get("code"):
        found.append(Problem("script", "is an s3:// URI beside code; give a path inside the code"))
    return found
