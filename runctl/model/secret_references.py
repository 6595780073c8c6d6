"""References to secrets: values of `env` that name a secret instead of containing it.

`secret:NAME`, `secret:ARN` and `secret:NAME#KEY` (one value of a secret that is a JSON object) name
a secret of AWS Secrets Manager; `ssm:/PATH`, `ssm:NAME` and `ssm:ARN` name a parameter of Systems
Manager. `#` cannot occur in the name of a secret, so it needs no escape.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Store(str, Enum):
    """The service that keeps a secret."""

    SECRETS_MANAGER = "secret"
    PARAMETER_STORE = "ssm"


@dataclass(frozen=True, kw_only=True)
class SecretReference:
    """The name of a secret. `key` selects one value of a JSON object, empty for the whole text."""

    store: Store
    name: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.store.value}:{self.name}{f'#{self.key}' if self.key else ''}"

    @property
    def region(self) -> str:
        """The region that an ARN names, empty for a name."""
        return self.name.split(":")[3] if self.name.startswith("arn:") else ""


_PREFIX = re.compile(r"(secret|ssm):", re.DOTALL)
# API_CreateSecret: letters, digits and /_+=.@-, 512 characters at most.
_SECRET_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")
_SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:([^:]+)(:.*)?")
# API_GetParameter: a name, which may be followed by a version or a label.
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9/_.-]{1,1011}(:[A-Za-z0-9_.-]{1,100})?")
_PARAMETER_ARN = re.compile(
    r"arn:aws[a-z-]*:ssm:[a-z0-9-]+:\d{12}:parameter/[A-Za-z0-9/_.-]+(:[A-Za-z0-9_.-]{1,100})?"
)


class BadReferenceError(ValueError):
    """A value begins like a reference but is not valid; the message has the rule and remedy."""


def is_reference(value: str) -> bool:
    """Return whether a value of `env` is a reference, well formed or not."""
    return bool(_PREFIX.match(value))


def parse_reference(value: str) -> SecretReference | None:
    """Read a value of `env`; return None if it is not a reference.

    Raises BadReferenceError with the rule and the remedy.
    """
    found = _PREFIX.match(value)
    if found is None:
        return None
    named = value[found.end() :]
    if found[1] == Store.PARAMETER_STORE.value:
        return _parameter(value, named)
    return _secret(value, named)


def _secret(value: str, named: str) -> SecretReference:
    name, hash_sign, key = named.partition("#")
    if hash_sign and not key:
        raise BadReferenceError(f"{value!r} has no key after '#'; write secret:NAME#KEY")
    if arn := _SECRET_ARN.fullmatch(name):
        if arn[2] is not None:  # as in the task definitions of ECS
            short = name[: arn.start(2)]
            json_key = arn[2].split(":")[1] or "KEY"
            raise BadReferenceError(
                f"{value!r} continues after the secret's name; write secret:{short}#{json_key}"
            )
        name_in_arn = arn[1]
    else:
        name_in_arn = name
    if not _SECRET_NAME.fullmatch(name_in_arn):
        raise BadReferenceError(
            f"{value!r} is not a valid secret; write secret:NAME or secret:ARN, and "
            "secret:NAME#KEY for one value of a JSON object (a name has letters, digits, /_+=.@-)"
        )
    return SecretReference(store=Store.SECRETS_MANAGER, name=name, key=key)


def _parameter(value: str, named: str) -> SecretReference:
    if "#" in named:
        raise BadReferenceError(f"{value!r}: a parameter has no keys; remove '#' and what follows")
    if not (_PARAMETER_ARN.fullmatch(named) or _PARAMETER_NAME.fullmatch(named)):
        raise BadReferenceError(
            f"{value!r} is not a valid parameter; write ssm:/PATH (names have letters, digits and "
            "/_.-)"
        )
    return SecretReference(store=Store.PARAMETER_STORE, name=named)


def references_in(env: Mapping[str, str]) -> dict[str, SecretReference]:
    """Return the references of a checked `env`, by the names of their variables."""
    found = {name: parse_reference(value) for name, value in env.items()}
    return {name: reference for name, reference in found.items() if reference is not None}
