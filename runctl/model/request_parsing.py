"""The check of a run request, which reports every problem of every field in one message."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runctl.model.contract import problem_with_references
from runctl.model.docker_options import SOURCES, docker_contradictions
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.evaluation_options import evaluation_problems
from runctl.model.gang_options import gang_contradictions
from runctl.model.kinds import ENVIRONMENT, EVALUATE, TRAIN
from runctl.model.plain_secrets import PlainSecret, find_plain_secrets
from runctl.model.processing_options import processing_contradictions
from runctl.model.request import RunRequest, fields_of
from runctl.model.request_fields import Field
from runctl.model.serving_options import serving_contradictions


def parse_request(document: Any, request: type[RunRequest] = RunRequest) -> RunRequest:
    """Check an execution's input and return the request.

    Raises InvalidRequestError with every problem of every field. An unknown kind is the only
    problem reported: the fields of such a run are not known either.
    """
    if not isinstance(document, Mapping):
        raise InvalidRequestError((Problem("input", "must be a JSON object"),))
    fields = fields_of(request)
    if "kind" in document and (problem := fields["kind"].check(document["kind"])):
        raise InvalidRequestError((Problem("kind", problem),))
    problems = [
        *_problems(document, fields),
        *_problems_with_kind(document, fields),
        *_contradictions(document),
        *evaluation_problems(document, kind=EVALUATE),
        *(
            Problem(found.where, problem_with_secret(found))
            for found in find_plain_secrets(document)
        ),
    ]
    if problems:
        raise InvalidRequestError(tuple(problems))
    return request.from_stored(document)


def _problems(
    document: Mapping[str, Any], fields: Mapping[str, Field], *, prefix: str = ""
) -> Iterator[Problem]:
    for name, value in document.items():
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(fields)}"
            yield Problem(f"{prefix}{name}", f"unknown field; {hint}")
        elif problem := fields[name].check(value):
            yield Problem(f"{prefix}{name}", problem)
        if name in fields and isinstance(value, Mapping) and (inner := fields[name].fields):
            yield from _problems(value, inner, prefix=f"{prefix}{name}.")


def _problems_with_kind(
    document: Mapping[str, Any], fields: Mapping[str, Field]
) -> Iterator[Problem]:
    """Check that a field of one kind of run is given with that kind only."""
    kind = document.get("kind", TRAIN)
    for name in document:
        if name in fields and fields[name].kind not in {"", kind}:
            own = fields[name].kind
            yield Problem(
                name, f'only for runs of the kind {own}; give kind: "{own}", or remove it'
            )


def problem_with_secret(found: PlainSecret) -> str:
    """Return why a value that looks like a secret is refused, and the remedy, without the value."""
    outer, _, name = found.where.partition(".")
    if outer == "env":
        remedy = (
            f"keep it in Secrets Manager or Parameter Store and give {name}=secret:NAME or "
            f"{name}=ssm:/PATH"
        )
    elif outer == "docker":
        remedy = (
            "a build argument is also stored in the image: keep it in Secrets Manager, give "
            "docker.build_secrets {id: secret:NAME} (--build-secret), and mount it in the "
            "Dockerfile with RUN --mount=type=secret,id=ID"
        )
    else:
        remedy = (
            "arguments also appear in the machine's process list: keep it in Secrets Manager or "
            "Parameter Store, give NAME=secret:NAME or NAME=ssm:/PATH in env, and let the program "
            "read the variable"
        )
    return (
        f"the value looks like a secret ({found.reason}), and requests are stored and shown; "
        f"{remedy}. If it is not a secret, add {found.label!r} to not_secrets (--not-secret)"
    )


def _contradictions(document: Mapping[str, Any]) -> Iterator[Problem]:
    script, command = document.get("script"), document.get("command")
    docker = document.get("docker")
    docker = docker if isinstance(docker, Mapping) else {}
    yield from docker_contradictions(docker, has_code=bool(document.get("code")))
    yield from serving_contradictions(document)
    yield from processing_contradictions(document)
    yield from gang_contradictions(document)
    if document.get("kind") == ENVIRONMENT:
        yield from _problems_with_environment(document)
    if script is None and command is None:
        yield from _problems_without_program(document, docker)
        return
    if script is not None and command is not None:
        yield Problem("command", "mutually exclusive with script; give one of them")
    if command is not None and document.get("args"):
        yield Problem("args", "not allowed with command; append them to command")
    if isinstance(command, list | tuple) and (problem := _problem_with_command(command)):
        yield Problem("command", problem)
    env = document.get("env")
    if document.get("credentials") == "run" and isinstance(env, Mapping):
        for name in env:
            if str(name).startswith("AWS_CONTAINER_"):
                yield Problem("env", f"{name} is set by runctl with credentials: run; remove it")
    if isinstance(script, str):
        yield from _problems_with_place(script, has_code=bool(document.get("code")))


def _problems_with_environment(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that an environment is stored by a run that may store it for others."""
    for name in ("root", "instance_id"):
        if document.get(name):
            yield Problem(
                name,
                "not allowed with kind environment: no other run uses what such a run stores; "
                "remove it",
            )


def _problems_without_program(
    document: Mapping[str, Any], docker: Mapping[str, Any]
) -> Iterator[Problem]:
    """Check a request whose program is the command of its image."""
    if not any(docker.get(source) for source in SOURCES):
        yield Problem(
            "script", "missing; give the path of a script, a command, or an image that has one"
        )
        return
    for name in ("args", "resume_args"):
        if document.get(name):
            yield Problem(
                name, "not allowed with the image's own command; give a script, or a command"
            )


def _problems_with_place(script: str, *, has_code: bool) -> Iterator[Problem]:
    is_uri = script.startswith("s3://")
    if not is_uri and not has_code:
        message = "is a path in a project, but code is missing; give an S3 URI, or code"
        yield Problem("script", f"{script!r} {message}")
    if is_uri and has_code:
        yield Problem(
            "script", f"{script!r} is an S3 URI, but code is given; give a path inside the code"
        )


def _problem_with_command(command: Sequence[Any]) -> str:
    """Check the words that no shell reads; a text of several words is likely a shell's program."""
    words = [word for word in command if isinstance(word, str)]
    return problem_with_references([word for word in words if not re.search(r"\s", word)])
