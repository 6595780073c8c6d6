"""The command-line options of the request's fields, made from the table of fields."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

import typer

from runctl.model.kinds import TRAIN
from runctl.model.request import RunRequest, groups_of
from runctl.model.request_fields import Field, Option, Syntax, entries

_TYPES: Mapping[Syntax, Any] = {
    Syntax.TEXT: str | None,
    Syntax.WORDS: str | None,
    Syntax.DURATION: str | None,
    Syntax.EXIT_CODES: str | None,
    Syntax.NUMBER_OR_AUTO: str | None,
    Syntax.NUMBER: int | None,
    Syntax.FRACTION: float | None,
    Syntax.SWITCH: bool,
    Syntax.COMMAS: list[str] | None,
    Syntax.REPEATED: list[str] | None,
    Syntax.ASSIGNMENTS: list[str] | None,
}


def fields_with_options(
    request: type[RunRequest] = RunRequest, *, kind: str = ""
) -> Iterator[tuple[str, str, Field, Option]]:
    """Yield group, path, field and option of each field that an option sets.

    The path of a field inside an object is `object.field`. With a `kind` of run, those fields that
    only another kind has are left out.
    """
    groups = {group: entries(holder) for group, holder in groups_of(request).items()}
    for name, field in entries(request).items():
        if field.fields and (not kind or field.kind in {"", kind}):
            groups[name] = {name: field}
    for group, fields in groups.items():
        for name, field in fields.items():
            inner = {f"{name}.{key}": each for key, each in field.fields.items()}
            for path, each in {name: field, **inner}.items():
                if each.option is not None and (not kind or each.kind in {"", kind}):
                    yield group, path, each, each.option


def parameter_name(option: Option) -> str:
    """Return the name of the function parameter that receives an option."""
    return option.name.strip("-").replace("-", "_")


def field_parameters(
    request: type[RunRequest] = RunRequest,
    *,
    kind: str = TRAIN,
    without: Collection[str] = (),
) -> list[inspect.Parameter]:
    """Return a function parameter for each option of a kind of run, under its group's heading.

    The fields of the paths `without` have none.
    """
    parameters = []
    for group, path, _, option in fields_with_options(request, kind=kind):
        if path in without:
            continue
        setting = typer.Option(
            option.name,
            metavar=option.metavar or None,
            help=option.help,
            rich_help_panel=group.capitalize(),
        )
        parameters.append(
            inspect.Parameter(
                parameter_name(option),
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[_TYPES[option.syntax], setting],
                default=False if option.syntax is Syntax.SWITCH else None,
            )
        )
    return parameters
