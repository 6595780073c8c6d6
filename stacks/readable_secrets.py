"""The secrets that runs may read: only those that the CDK context lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stacks.errors import BadContextError

# Secrets Manager appends a hyphen and six characters to the name of a secret in its ARN.
SUFFIX = "-??????"
_HAS_SUFFIX = re.compile(r".+-[A-Za-z0-9]{6}")
_SECRET = re.compile(r"[A-Za-z0-9/_+=.@*?-]{1,512}")
_PARAMETER = re.compile(r"[A-Za-z0-9/_.*?-]{1,1011}")
_ARN = re.compile(
    r"arn:aws[a-z-]*:(?P<service>[a-z0-9-]+):(?P<region>[a-z0-9-]*):(?P<account>\d{12}):(?P<rest>.+)"
)
_KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
_ANY = re.compile(r"[*?]")


@dataclass(frozen=True, kw_only=True)
class ReadableSecrets:
    """ARNs of secrets, parameters and their keys; they may end in a wildcard."""

    secrets: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def read_readable_secrets(
    context: Mapping[str, Sequence[str]], *, account: str, region: str
) -> ReadableSecrets:
    """Read the lists `secrets`, `parameters` and `secret_keys`.

    Raises BadContextError for an entry that would permit nothing, or everything.
    """
    where = f"{region}:{account}"
    return ReadableSecrets(
        secrets=tuple(_secret(entry, where) for entry in context["secrets"]),
        parameters=tuple(_parameter(entry, where) for entry in context["parameters"]),
        keys=tuple(_key(entry, where) for entry in context["secret_keys"]),
    )


def _secret(found: str, where: str) -> str:
    if found.startswith("arn:"):
        arn = _checked_arn("secrets", found, "secretsmanager", "secret:", where)
        name = arn.split(":secret:", 1)[1]
        _check_name("secrets", found, name, _SECRET)
        if not _ANY.search(name) and not _HAS_SUFFIX.fullmatch(name):
            raise BadContextError(
                f"context secrets: {found!r} lacks the hyphen and six characters at the end of a "
                f"secret's ARN; give the whole ARN, or the name {name!r} alone"
            )
        return arn
    _check_name("secrets", found, found, _SECRET)
    suffix = "" if found.endswith("*") else SUFFIX
    return f"arn:aws:secretsmanager:{where}:secret:{found}{suffix}"


def _parameter(found: str, where: str) -> str:
    if found.startswith("arn:"):
        arn = _checked_arn("parameters", found, "ssm", "parameter/", where)
        _check_name("parameters", found, arn.split(":parameter/", 1)[1], _PARAMETER)
        return arn
    _check_name("parameters", found, found, _PARAMETER)
    return f"arn:aws:ssm:{where}:parameter/{found.lstrip('/')}"


def _key(found: str, where: str) -> str:
    if _KEY_ID.fullmatch(found):
        return f"arn:aws:kms:{where}:key/{found}"
    if not found.startswith("arn:"):
        raise BadContextError(
            f"context secret_keys: {found!r} is not the id or the ARN of a KMS key (an alias can "
            "be moved to another key)"
        )
    arn = _checked_arn("secret_keys", found, "kms", "key/", where)
    if not _KEY_ID.fullmatch(arn.split(":key/", 1)[1]):
        raise BadContextError(f"context secret_keys: {found!r} does not end in the id of a key")
    return arn


def _checked_arn(key: str, found: str, service: str, kind: str, where: str) -> str:
    arn = _ARN.fullmatch(found)
    if arn is None or arn["service"] != service or not arn["rest"].startswith(kind):
        raise BadContextError(
            f"context {key}: {found!r} is not an ARN such as arn:aws:{service}:{where}:{kind}NAME"
        )
    region = where.partition(":")[0]
    if arn["region"] != region:
        raise BadContextError(
            f"context {key}: {found!r} is in {arn['region']}, but runs read secrets in {region}; "
            "replicate it there, and list the replica"
        )
    return found


def _check_name(key: str, found: str, name: str, rule: re.Pattern[str]) -> None:
    if not rule.fullmatch(name):
        raise BadContextError(
            f"context {key}: {found!r} contains characters that names cannot contain"
        )
    if not _ANY.split(name, maxsplit=1)[0].strip("/"):
        raise BadContextError(
            f"context {key}: {found!r} would permit everything; list each name, or start with a "
            "prefix such as 'team/*'"
        )
