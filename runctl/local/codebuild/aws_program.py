"""The program `aws` of builds where the AWS CLI is not installed: the calls that builds make most.

It makes every call whose parameters are texts, numbers or flags, with `--query` and `--output`, and
`s3 cp` and `ecr get-login-password`. Whatever else the AWS CLI can do is refused.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import boto3
import jmespath
from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import Shape

_FAILED, _USAGE = 255, 252
_SCALARS = {"string": str, "integer": int, "long": int, "boolean": bool}
_GENERAL = {"--query", "--output", "--region"}
_FLAGS = {"--only-show-errors", "--quiet", "--no-progress", "--no-cli-pager"}


def main() -> NoReturn:
    """Make the call that the command line describes."""
    words, options = _split(sys.argv[1:])
    if len(words) < 2:
        _refuse("usage: aws SERVICE OPERATION [--OPTION VALUE …]")
    try:
        if words[:2] == ["s3", "cp"]:
            _copy(words[2:], options)
        elif words[:2] == ["ecr", "get-login-password"]:
            token = _client("ecr", options).get_authorization_token()["authorizationData"][0]
            password = base64.b64decode(token["authorizationToken"]).decode().partition(":")[2]
            sys.stdout.write(f"{password}\n")
        else:
            _call(words, options)
    except (ClientError, BotoCoreError, OSError) as exc:
        sys.stderr.write(f"\n{exc}\n")
        sys.exit(_FAILED)
    sys.exit(0)


def _split(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separate words from options; an option without a value is a flag."""
    words: list[str] = []
    options: dict[str, str] = {}
    left = list(arguments)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            words.append(word)
        elif "=" in word:
            name, _, value = word.partition("=")
            options[name] = value
        elif word not in _FLAGS and left and not left[0].startswith("--"):
            options[word] = left.pop(0)
        else:
            options[word] = "true"
    return words, options


def _copy(words: list[str], options: dict[str, str]) -> None:
    if unknown := set(options) - _FLAGS - _GENERAL:
        _refuse(f"s3 cp: {sorted(unknown)[0]} is not supported here: install the AWS CLI")
    if len(words) != 2 or sum(word.startswith("s3://") for word in words) != 1:
        _refuse("s3 cp: only between a file and an object: install the AWS CLI")
    source, target = words
    s3 = _client("s3", options)
    if source.startswith("s3://"):
        bucket, _, key = source.removeprefix("s3://").partition("/")
        if target == "-":
            s3.download_fileobj(bucket, key, sys.stdout.buffer)
            return
        path = Path(target)
        path = path / key.rpartition("/")[2] if path.is_dir() else path
        s3.download_file(bucket, key, str(path))
        return
    bucket, _, key = target.removeprefix("s3://").partition("/")
    if source == "-":
        s3.upload_fileobj(sys.stdin.buffer, bucket, key)
        return
    key = f"{key}{Path(source).name}" if not key or key.endswith("/") else key
    s3.upload_file(source, bucket, key)


def _call(words: list[str], options: dict[str, str]) -> None:
    service, operation = words[:2]
    client = _client(service, options)
    known = {
        xform_name(name).replace("_", "-"): name
        for name in client.meta.service_model.operation_names
    }
    if operation not in known or len(words) > 2:
        _refuse(f"{service}: {' '.join(words[1:])!r} is not supported here: install the AWS CLI")
    shape = client.meta.service_model.operation_model(known[operation]).input_shape
    members = {
        f"--{xform_name(name).replace('_', '-')}": (name, member)
        for name, member in (shape.members if shape else {}).items()
    }
    request: dict[str, Any] = {}
    for option, value in options.items():
        if option in _GENERAL or option in _FLAGS:
            continue
        name, member = members.get(option) or _refuse(f"Unknown options: {option}")
        request[name] = _value(option, member, value)
    answer = getattr(client, xform_name(known[operation]))(**request)
    answer.pop("ResponseMetadata", None)
    found = jmespath.search(options["--query"], answer) if "--query" in options else answer
    _write(found, options.get("--output", "json"))


def _value(option: str, member: Shape, value: str) -> Any:
    kind = _SCALARS.get(member.type_name)
    if kind is bool:
        return value == "true"
    if kind is not None:
        return kind(value)
    try:
        return json.loads(value)
    except ValueError:
        _refuse(f"{option}: must be JSON here: install the AWS CLI")


def _write(found: Any, output: str) -> None:
    if output == "text":
        rows = found if isinstance(found, list) else [found]
        if any(isinstance(row, dict | list) for row in rows):
            _refuse("--output text: only for single values here: install the AWS CLI")
        sys.stdout.write("\t".join("None" if row is None else str(row) for row in rows) + "\n")
    elif found is not None:
        sys.stdout.write(json.dumps(found, indent=4, default=str) + "\n")


def _client(service: str, options: dict[str, str]) -> Any:
    open_client: Any = boto3.client
    return open_client(service, region_name=options.get("--region"))


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"aws: {message}\n")
    sys.exit(_USAGE)
