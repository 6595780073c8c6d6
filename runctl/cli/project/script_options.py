"""Options after a script that name data in S3: runctl reads them, and the script gets local paths.

Everything after a script belongs to it. The exceptions are the combinations of options in
`COMBINATIONS`, each complete and with the values that it requires: only then they are runctl's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runctl.model.evaluation_options import CHECKPOINT, TEST_DATA
from runctl.model.kinds import EVALUATE, PROCESS

_REFERENCE = re.compile(r"\$(?=\{?RUNCTL_)")


@dataclass(frozen=True, kw_only=True)
class ScriptOption:
    """An option that runctl reads after a script, as part of a combination.

    `field` is the path of the request field that it sets, and `accepts` says whether a value is one
    that runctl reads: one that is `rule`. `read` turns the text into the field's value, and
    `replace` into what the script gets instead; None removes the option from its arguments. A
    switch has no value: its text is empty.
    """

    field: str
    accepts: Callable[[str], bool]
    rule: str = "an S3 URI"
    read: Callable[[str], Any] = str
    replace: Callable[[str], str | None] = str
    is_required: bool = True
    is_switch: bool = False


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The options that together make a run one of another kind; `noun` is what it then is."""

    kind: str
    noun: str
    options: Mapping[str, ScriptOption]


@dataclass(frozen=True, kw_only=True)
class ScriptOptions:
    """What runctl reads of a script's arguments: the rest, and the fields that it sets, by path.

    `note` says what was understood, or why options that look like runctl's are not; it is empty if
    nothing looks like it.
    """

    args: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def local_path(name: str, uri: str) -> str:
    """Return the path at which a script has an input: its folder, or the file of one object.

    It is in terms of the trainer contract, which the agent replaces.
    """
    key = uri.removeprefix("s3://").partition("/")[2] if uri.startswith("s3://") else ""
    file = _REFERENCE.sub("$$", key.rpartition("/")[2])
    return f"$RUNCTL_INPUT_DIR/{name}/{file}".rstrip("/")


def is_in_s3(value: str) -> bool:
    """Whether a value is an S3 URI; the check of the request reports whether it is a valid one."""
    return value.startswith("s3://")


EVALUATION = Combination(
    kind=EVALUATE,
    noun="an evaluation",
    options={
        "--checkpoint": ScriptOption(
            field="evaluate.checkpoint",
            accepts=lambda value: value.startswith(("s3://", "run:")),
            rule="an S3 URI or run:RUN",
            replace=lambda value: local_path(CHECKPOINT, value),
        ),
        "--test-data": ScriptOption(
            field="evaluate.test_data",
            accepts=is_in_s3,
            replace=lambda value: local_path(TEST_DATA, value),
        ),
        "--output": ScriptOption(
            field="evaluate.output",
            accepts=is_in_s3,
            replace=lambda _uri: "$RUNCTL_OUTPUT_DIR",
            is_required=False,
        ),
    },
)

PROCESSING = Combination(
    kind=PROCESS,
    noun="a run that processes data",
    options={
        "--input-s3": ScriptOption(
            field="process.input",
            accepts=is_in_s3,
            replace=lambda _uri: "$RUNCTL_INPUT_DIR",
        ),
        "--output-s3": ScriptOption(
            field="process.output",
            accepts=lambda text: is_in_s3(text) and text.endswith("/"),
            rule="a prefix of S3, which ends with /",
            replace=lambda _uri: "$RUNCTL_OUTPUT_DIR",
        ),
        # Each of the workers is one process: a script that starts its own starts one.
        "--workers": ScriptOption(
            field="process.workers",
            accepts=lambda text: text.isascii() and text.isdigit() and 1 <= len(text) <= 9,
            rule="a whole number",
            read=int,
            replace=lambda _number: "1",
            is_required=False,
        ),
    },
)
COMBINATIONS: tuple[Combination, ...] = (EVALUATION, PROCESSING)


@dataclass(frozen=True, kw_only=True)
class _Word:
    """A word among the arguments of a script, with its value if it is an option of `name`."""

    text: str
    name: str = ""
    value: str = ""
    has_equals: bool = False


def take_script_options(
    args: Sequence[str], combinations: Sequence[Combination] = COMBINATIONS
) -> ScriptOptions:
    """Return what is runctl's among the arguments of a script, up to a word `--`.

    An option that is given twice, or with a value that runctl does not read, leaves all of them to
    the script.
    """
    for combination in combinations:
        if (taken := _take(args, combination)) is not None:
            return taken
    notes = (_why_not(args, combination) for combination in combinations)
    return ScriptOptions(args=tuple(args), note=next(filter(None, notes), ""))


def given_options(args: Sequence[str], combination: Combination) -> list[tuple[str, str]]:
    """Return the options of a combination among the arguments of a script, with their values."""
    return [(word.name, word.value) for word in _split(args, combination)[0] if word.name]


def _split(args: Sequence[str], combination: Combination) -> tuple[list[_Word], Sequence[str]]:
    """Return the words up to `--`, options together with their values, and the rest."""
    end = args.index("--") if "--" in args else len(args)
    words = []
    own = iter(args[:end])
    for text in own:
        name, equals, value = text.partition("=")
        option = combination.options.get(name)
        if option is None:
            words.append(_Word(text=text))
            continue
        if not equals and not option.is_switch:
            value = next(own, "")
        words.append(_Word(text=text, name=name, value=value, has_equals=bool(equals)))
    return words, args[end:]


def _take(args: Sequence[str], combination: Combination) -> ScriptOptions | None:
    """Return what a combination takes of the arguments, None if they are not this combination."""
    words, rest = _split(args, combination)
    kept: list[str] = []
    given: dict[str, Any] = {}
    for word in words:
        option = combination.options.get(word.name)
        if option is None:
            kept.append(word.text)
            continue
        if word.name in given or not option.accepts(word.value):
            return None
        given[word.name] = option.read(word.value)
        replaced = option.replace(word.value)
        if replaced is not None:
            kept += [f"{word.name}={replaced}"] if word.has_equals else [word.name, replaced]
    if not given or not _required(combination) <= given.keys():
        return None
    values = {combination.options[name].field: value for name, value in given.items()}
    return ScriptOptions(
        args=(*kept, *rest),
        fields={"kind": combination.kind, **values},
        note=(
            f"this is {combination.noun}: runctl reads {_listed(list(given))}, and the script gets "
            "local paths instead of those in S3"
        ),
    )


def _why_not(args: Sequence[str], combination: Combination) -> str:
    """Return why arguments that name data in S3 as a combination does are left to the script."""
    given = given_options(args, combination)
    names = [name for name, _ in given]
    required = _required(combination)
    if not required or not required <= set(names):
        return ""
    if not all(value.startswith(("s3://", "run:")) for name, value in given if name in required):
        return ""
    twice = next((name for name in names if names.count(name) > 1), "")
    reason = f"{twice} is given twice" if twice else ""
    for name, value in given:
        option = combination.options[name]
        if not reason and not option.accepts(value):
            reason = f"{value!r} of {name} is not {option.rule}"
    left = _listed(list(dict.fromkeys(names)))
    return f"this is not {combination.noun}: the script gets {left} as given, because {reason}"


def _required(combination: Combination) -> set[str]:
    return {name for name, option in combination.options.items() if option.is_required}


def _listed(names: Sequence[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last
