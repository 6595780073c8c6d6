"""The words after a script that are runctl's, and those that its options before it add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runctl.cli.project.script_options import (
    COMBINATIONS,
    EVALUATION,
    Combination,
    ScriptOption,
    given_options,
    take_script_options,
)
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.kinds import EVALUATE, TRAIN

# After the script of the command that starts such a run, each of the options is runctl's.
_OWN = {
    EVALUATE: replace(
        EVALUATION,
        options={
            **{
                name: replace(option, is_required=False)
                for name, option in EVALUATION.options.items()
            },
            # The check of the request reports a value that is not a checkpoint.
            "--checkpoint": replace(
                EVALUATION.options["--checkpoint"],
                accepts=lambda _: True,
                is_required=False,
            ),
            "--every-checkpoint": ScriptOption(
                field="evaluate.every_checkpoint",
                accepts=lambda value: not value,
                read=lambda _: True,
                replace=lambda _: None,
                is_required=False,
                is_switch=True,
            ),
        },
    )
}


@dataclass(frozen=True, kw_only=True)
class ScriptWords:
    """The arguments of a script, and the fields of the request; `note` says what was understood."""

    args: tuple[str, ...]
    fields: Mapping[str, Any]
    note: str = ""


def read_script_words(kind: str, args: Sequence[str], fields: Mapping[str, Any]) -> ScriptWords:
    """Read a script's arguments; `fields` are those that options before the script have set.

    The script of a command with options of its own gets those, too, as local paths.
    A value that is not in S3 is the script's own. Raises InvalidRequestError for an option that is
    given twice.
    """
    if kind == TRAIN:
        taken = take_script_options(args, COMBINATIONS)
        return ScriptWords(args=taken.args, fields={**fields, **taken.fields}, note=taken.note)
    own = _OWN.get(kind)
    if own is None:
        return ScriptWords(args=tuple(args), fields=fields)
    given = given_options(args, own)
    _check_given(given, own, fields)
    local = {name for name, value in given if not own.options[name].accepts(value)}
    options = {name: option for name, option in own.options.items() if name not in local}
    own = replace(own, options=options)
    taken = take_script_options(args, [own])
    return ScriptWords(args=(*taken.args, *_added(own, fields)), fields={**fields, **taken.fields})


def _check_given(
    given: Sequence[tuple[str, str]], own: Combination, fields: Mapping[str, Any]
) -> None:
    """Refuse an option after a script that is given twice, or before the script as well."""
    names = [name for name, _ in given]
    for name in names:
        where = "before the script and after it" if own.options[name].field in fields else ""
        if where or names.count(name) > 1:
            raise InvalidRequestError((Problem(name, f"given {where or 'twice'}; give it once"),))


def _added(own: Combination, fields: Mapping[str, Any]) -> list[str]:
    """Return the words by which a script gets what options before it have given."""
    words: list[str] = []
    for name, option in own.options.items():
        value = fields.get(option.field)
        if isinstance(value, str) and (replaced := option.replace(value)) is not None:
            words += [name, replaced]
    return words
