"""Entries of the table of request fields: everything that is known of one field.

An entry is the default of a dataclass's attribute, as with `dataclasses.field`: the attribute gives
the field its name, its type and its group. `entries` reads them back.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from runctl.model import request_checks
from runctl.model.request_checks import Check, json_type, parse_instant

_ENTRY = "request field"


class Syntax(Enum):
    """The rule by which the text of a command-line option becomes the value of a field."""

    TEXT = "the text itself"
    NUMBER = "a whole number"
    NUMBER_OR_AUTO = "a whole number, or `auto`"
    FRACTION = "a number from 0 to 1"
    SWITCH = "no text: the option stands for the opposite of the default"
    COMMAS = "strings separated by commas; the option is repeatable"
    REPEATED = "one string for each option"
    ASSIGNMENTS = "NAME=VALUE for each option"
    DURATION = "a whole number with s, m, h or d"
    WORDS = "words, split as a shell splits them"
    EXIT_CODES = "whole numbers separated by commas, or `any`"


@dataclass(frozen=True)
class Option:
    """The command-line option that sets a field."""

    name: str
    help: str
    metavar: str = ""
    syntax: Syntax = Syntax.TEXT


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of the request, as the table describes it.

    `check` returns the problem with a value and its remedy, or None. `read` turns JSON into the
    attribute's value and raises TypeError or ValueError for what it cannot read; `write` is its
    inverse, None for an empty value that `check` refuses. `is_setting`: the settings file may
    contain it. `fields` are those of an object. `kind` is the only kind of run that has the field,
    empty for a field of all kinds.
    """

    schema: Mapping[str, Any]
    check: Check
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    option: Option | None = None
    is_setting: bool = False
    fields: Mapping[str, "Field"] = dataclasses.field(default_factory=dict)
    kind: str = ""


def entries(holder: type) -> Mapping[str, Field]:
    """Return the fields that the attributes of a dataclass declare, by their names."""
    attributes = dataclasses.fields(holder)
    return {each.name: each.metadata[_ENTRY] for each in attributes if _ENTRY in each.metadata}


def read_values(fields: Mapping[str, Field], document: Any) -> dict[str, Any]:
    """Return the values that can be read; the others get their defaults."""
    values: dict[str, Any] = {}
    if isinstance(document, Mapping):
        for name, value in document.items():
            if name in fields:
                try:
                    values[name] = fields[name].read(value)
                except (TypeError, ValueError):
                    continue
    return values


def write_values(fields: Mapping[str, Field], holder: Any) -> dict[str, Any]:
    """Return the JSON form of a dataclass's fields, without those that have nothing to store."""
    written = {name: field.write(getattr(holder, name)) for name, field in fields.items()}
    return {name: value for name, value in written.items() if value is not None}


def entry(default: Any, field: Field, *, in_repr: bool = True) -> Any:
    """Return the declaration of a field with this default."""
    metadata = {_ENTRY: field}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, repr=in_repr, metadata=metadata)
    return dataclasses.field(default=default, repr=in_repr, metadata=metadata)


def text(
    about: str,
    *,
    check: Check,
    pattern: str = "",
    option: Option | None = None,
    is_setting: bool = False,
) -> Any:
    """Declare a string, empty by default."""
    schema = {"type": "string", "description": about}
    if pattern:
        schema["pattern"] = pattern
    if check("") is None:
        schema["default"] = ""
    return entry(
        "",
        Field(
            schema=schema,
            check=check,
            read=_exactly(str),
            write=str if check("") is None else lambda value: value or None,
            option=option,
            is_setting=is_setting,
        ),
    )


def strings(
    about: str,
    *,
    check: Check,
    default: Sequence[str] = (),
    limits: Mapping[str, int] | None = None,
    option: Option | None = None,
    is_setting: bool = False,
    in_repr: bool = False,
) -> Any:
    """Declare a list of strings; `limits` are minItems and maxItems of its schema."""
    schema: dict[str, Any] = {"type": "array", "items": {"type": "string"}, **(limits or {})}
    if default or not limits:
        schema["default"] = list(default)
    field = Field(
        schema={**schema, "description": about},
        check=check,
        read=_read_strings,
        write=list if check([]) is None else lambda value: list(value) or None,
        option=option,
        is_setting=is_setting,
    )
    return entry(tuple(default), field, in_repr=in_repr)


def variables(about: str, *, check: Check, option: Option, is_setting: bool = False) -> Any:
    """Declare an object of names and strings."""
    field = Field(
        schema={
            "type": "object",
            "additionalProperties": {"type": "string"},
            "default": {},
            "description": about,
        },
        check=check,
        read=_read_variables,
        write=dict,
        option=option,
        is_setting=is_setting,
    )
    return entry({}, field, in_repr=False)


def choice(
    about: str,
    *,
    choices: Collection[str],
    noun: str,
    default: str,
    unknown: str | None = None,
    option: Option | None = None,
    is_setting: bool = False,
) -> Any:
    """Declare one of several words; a stored word that is not among them is read as `unknown`."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or (value not in choices and unknown is None):
            raise TypeError(json_type(value))
        return value if value in choices else str(unknown)

    field = Field(
        schema={"enum": list(choices), "default": default, "description": about},
        check=request_checks.one_of(choices, noun),
        read=read,
        write=str,
        option=option,
        is_setting=is_setting,
    )
    return entry(default, field)


def boolean(
    about: str,
    *,
    default: bool,
    option: Option | None = None,
    is_setting: bool = False,
    kind: str = "",
) -> Any:
    """Declare a boolean."""
    field = Field(
        schema={"type": "boolean", "default": default, "description": about},
        check=request_checks.check_boolean,
        read=_exactly(bool),
        write=_writer(bool, default, kind),
        option=option,
        is_setting=is_setting,
        kind=kind,
    )
    return entry(default, field)


def whole_number(
    about: str,
    *,
    least: int,
    most: int,
    default: int,
    option: Option | None = None,
    is_setting: bool = False,
    kind: str = "",
) -> Any:
    """Declare a whole number within limits."""
    field = Field(
        schema={
            "type": "integer",
            "minimum": least,
            "maximum": most,
            "default": default,
            "description": about,
        },
        check=request_checks.whole_number(least, most),
        read=_exactly(int),
        write=_writer(int, default, kind),
        option=option,
        is_setting=is_setting,
        kind=kind,
    )
    return entry(default, field)


def optional_number(about: str, *, least: int, most: int, option: Option | None = None) -> Any:
    """Declare a whole number within limits that may be left out, which is 0 in the attribute."""
    field = Field(
        schema={"type": "integer", "minimum": least, "maximum": most, "description": about},
        check=request_checks.whole_number(least, most),
        read=_exactly(int),
        write=lambda value: value or None,
        option=option,
    )
    return entry(0, field)


def fraction(
    about: str, *, default: float, option: Option | None = None, is_setting: bool = False
) -> Any:
    """Declare a number from 0 to 1."""
    field = Field(
        schema={
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": default,
            "description": about,
        },
        check=request_checks.check_fraction,
        read=_read_number,
        write=float,
        option=option,
        is_setting=is_setting,
    )
    return entry(default, field)


def instant(about: str, *, option: Option | None = None) -> Any:
    """Declare a date and time, kept in UTC; None by default."""
    field = Field(
        schema={"type": "string", "format": "date-time", "description": about},
        check=request_checks.check_instant,
        read=_read_instant,
        write=lambda value: None if value is None else value.isoformat(),
        option=option,
    )
    return entry(None, field)


def an_object(
    about: str,
    *,
    holder: type,
    required: tuple[str, ...] = (),
    is_setting: bool = False,
    omits_default: bool = False,
    kind: str = "",
    check_together: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
) -> Any:
    """Declare an object whose fields are the entries of the dataclass `holder`.

    With `omits_default`, an object of defaults only is not stored. `kind` is the only kind of run
    that has it. `check_together` checks the values of an object against each other; some of them
    may be invalid.
    """
    fields = entries(holder)
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
    if required:
        schema["required"] = list(required)
    schema["properties"] = {name: dict(field.schema) for name, field in fields.items()}

    def check(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return f"must be an object, not {json_type(value)}"
        missing = [name for name in required if name not in value]
        if missing:
            return f"{missing[0]} is missing; {fields[missing[0]].schema['description']}"
        return check_together(value)

    def write(value: Any) -> dict[str, Any] | None:
        if omits_default and value == holder():
            return None
        document = write_values(fields, value)
        return document if document.keys() >= set(required) else None

    field = Field(
        schema={**schema, "description": about},
        check=check,
        read=lambda value: holder(**read_values(fields, value)),
        write=write,
        is_setting=is_setting,
        fields=fields,
        kind=kind,
    )
    return dataclasses.field(default_factory=holder, metadata={_ENTRY: field})


def _writer(write: Callable[[Any], Any], default: Any, kind: str) -> Callable[[Any], Any]:
    """Return how a value is written; runs of other kinds have no field that only one kind has."""
    return lambda value: None if kind and value == default else write(value)


def _exactly(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(json_type(value))
        return value

    return read


def _read_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(json_type(value))
    return float(value)


def _read_strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(json_type(value))
    return tuple(map(str, value))


def _read_variables(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(json_type(value))
    return {str(name): str(text) for name, text in value.items()}


def _read_instant(value: Any) -> datetime:
    read = parse_instant(_exactly(str)(value))
    if read.tzinfo is None:
        raise ValueError("no time zone")
    return read.astimezone(timezone.utc)
