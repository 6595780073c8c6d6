"""The values of request fields, read from the text of command-line options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.plain_secrets import mask_text
from runctl.model.request_checks import ANY
from runctl.model.request_fields import Field, Syntax


def read_option(field: Field, given: Any) -> Any:
    """Return the value that an option gives a field, None if it was not given.

    Raises InvalidRequestError if the text does not have the syntax of the option.
    """
    option = field.option
    if option is None or given is None or given is False:
        return None
    if option.syntax is Syntax.SWITCH:
        return not field.schema["default"]
    return _READERS[option.syntax](option.name, given)


def split_commas(options: Sequence[str]) -> list[str]:
    """Split options at their commas."""
    return [text.strip() for option in options for text in option.split(",") if text.strip()]


def _read_repeated(_option: str, texts: Sequence[str]) -> list[str] | None:
    return list(texts) or None


def _read_assignments(option: str, texts: Sequence[str]) -> dict[str, str] | None:
    """Parse NAME=VALUE; the last value of a name wins."""
    problems = [
        Problem(option, f"{mask_text(text)!r} has no '='; write NAME=VALUE")
        for text in texts
        if "=" not in text
    ]
    if problems:
        raise InvalidRequestError(tuple(problems))
    parts = (text.partition("=") for text in texts)
    return {name: value for name, _, value in parts} or None


def _read_words(option: str, text: str) -> list[str] | None:
    """Split a text into words, as a shell does."""
    try:
        return shlex.split(text) or None
    except ValueError as exc:
        problem = Problem(option, f"{mask_text(text)!r}: {exc}; close the quotation mark")
        raise InvalidRequestError((problem,)) from exc


def read_duration(option: str, text: str) -> int:
    """Return seconds; raises InvalidRequestError for a text without a unit."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if found is None:
        message = f"{text!r} is not a duration; write a whole number with s, m, h or d (e.g. 30m)"
        raise InvalidRequestError((Problem(option, message),))
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


def _read_number_or_auto(_option: str, text: str) -> int | str:
    """Parse a whole number; the check of the request reports other words."""
    word = text.strip()
    return int(word) if re.fullmatch(r"\d{1,9}", word) else word


def _read_exit_codes(_option: str, text: str) -> list[int | str] | str | None:
    """Parse whole numbers; the check of the request reports other words."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == [ANY]:
        return ANY
    return [int(word) if re.fullmatch(r"-?\d{1,9}", word) else word for word in words]


_READERS: Mapping[Syntax, Callable[[str, Any], Any]] = {
    Syntax.TEXT: lambda _option, text: text,
    Syntax.NUMBER: lambda _option, number: number,
    Syntax.NUMBER_OR_AUTO: _read_number_or_auto,
    Syntax.FRACTION: lambda _option, number: number,
    Syntax.COMMAS: lambda _option, texts: split_commas(texts) or None,
    Syntax.REPEATED: _read_repeated,
    Syntax.ASSIGNMENTS: _read_assignments,
    Syntax.WORDS: _read_words,
    Syntax.EXIT_CODES: _read_exit_codes,
    Syntax.DURATION: read_duration,
}
