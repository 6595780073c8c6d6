"""Types of arguments and options, converted without pydantic.

typer makes a pydantic adapter for each parameter of the command that was chosen and of the groups
around it. To import pydantic takes longer than everything else that a help page needs, and plain
types do not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"", "0", "off", "f", "false", "n", "no"})


@dataclass(frozen=True)
class PlainType:
    """The conversion of a parameter's text, or of each of its texts."""

    read: Callable[[Any], Any]
    name: str

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the parameter's value; raises BadParameter if a text cannot be converted."""
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        try:
            return [self.read(item) for item in value] if is_list else self.read(value)
        except ValueError:
            message = f"{value!r} is not {self.name}"
            raise typer.BadParameter(message, ctx=ctx, param=param) from None


def _read_boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(word)
    return word in _TRUE


_TEXT = PlainType(str, "a text")
_PLAIN: Mapping[Any, PlainType] = {
    str: _TEXT,
    list[str]: _TEXT,
    bool: PlainType(_read_boolean, "a boolean (1 or 0)"),
    int: PlainType(int, "a whole number"),
    float: PlainType(float, "a number"),
}


def with_plain_types(parameters: Sequence[Any]) -> Sequence[Any]:
    """Let parameters of a plain type without limits be converted by it, and return them all."""
    for parameter in parameters:
        descriptor = getattr(parameter, "type_descriptor", None)
        plain = _PLAIN.get(getattr(descriptor, "annotation", None))
        has_limits = any(getattr(parameter, name, None) is not None for name in ("min", "max"))
        if plain is not None and not has_limits:
            parameter.get_runtime_param = lambda plain=plain: plain
    return parameters
