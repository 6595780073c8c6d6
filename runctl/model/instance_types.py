"""Names of instance types, checked by their form."""

import re
from typing import Any

from runctl.model.pool import machine_kind

MAX_TYPES = 40
# A family has a generation; sizes are words, multiples of xlarge, or metal.
_FAMILY = r"(?=[a-z-]*[0-9])[a-z][a-z0-9-]*"
_SIZE = (
    r"(nano|micro|small|medium|large|xlarge|([2-9]|[1-9][0-9]{1,2})xlarge|"
    r"metal(-[1-9][0-9]{0,2}xl)?)"
)
_TYPE = re.compile(rf"{_FAMILY}\.{_SIZE}")
_LIKE_A_TYPE = re.compile(rf"(?P<family>[a-z][a-z-]*[0-9]+[a-z0-9-]*?)[. _]?(?P<size>{_SIZE})$")


def check_instance_types(value: Any) -> str | None:
    """Return the problem with a request's instance types and its remedy, or None."""
    if not isinstance(value, list | tuple) or not value:
        return f"{value!r} is not a list of instance types (e.g. ['g5.xlarge', 'g4dn.xlarge'])"
    for item in value:
        if not isinstance(item, str) or not _TYPE.fullmatch(item):
            return f"{item!r} is not a valid instance type (e.g. {_example_for(item)})"
        try:
            machine_kind(item)
        except ValueError as exc:
            return str(exc)
    for number, item in enumerate(value):
        if item in value[:number]:
            return f"{item} is listed twice; remove one"
    if len(value) > MAX_TYPES:
        return f"{len(value)} types exceed the limit of {MAX_TYPES}; remove some"
    return None


def _example_for(item: Any) -> str:
    """Return the type that was probably meant: the same letters with a dot, or the same family."""
    if found := _LIKE_A_TYPE.search(str(item).lower()):
        return f"{found['family'].rstrip('-')}.{found['size']}"
    family = str(item).lower().partition(".")[0]
    return f"{family}.xlarge" if re.fullmatch(_FAMILY, family) else "g5.xlarge"
