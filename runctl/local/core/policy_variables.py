# ruff: noqa: SLF001 - it changes how ministack matches statements
"""Variables in policies, such as `${aws:PrincipalTag/RunId}`, which ministack takes literally.

Source: "IAM policy elements: Variables and tags" in the IAM User Guide. A variable stands in a
resource or in the value of a condition. If the request has no value for one, and none is given in
its place, the statement does not match. Policies of the version 2008-10-17, which is that of
policies without one, have no variables.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from ministack.core import iam_evaluator
from ministack.core.iam_evaluator import EvalContext, ParsedStatement

_VERSION = "2012-10-17"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_DEFAULT = re.compile(r"(?P<name>[^,]+?)\s*,\s*'(?P<default>[^']*)'")
# `${*}` is an asterisk and no wildcard: characters that stand for these while they are compared.
_LITERAL = {"*": "\ue000", "?": "\ue001", "$": "$"}
_TO_COMPARE = str.maketrans({"*": _LITERAL["*"], "?": _LITERAL["?"]})
_AS_WRITTEN = str.maketrans({_LITERAL["*"]: "*", _LITERAL["?"]: "?"})
_HAS_VARIABLES = "has_variables"


class _UnresolvedError(LookupError):
    """A variable without a value."""


def install() -> None:
    """Give policies variables, once."""
    parse, match, like = (
        iam_evaluator.parse_policy_document,
        iam_evaluator._first_match,
        iam_evaluator.fnmatch_iam_cs,
    )

    def parse_document(document: Any) -> list[ParsedStatement]:
        statements: list[ParsedStatement] = parse(document)
        has_variables = _version_of(document) == _VERSION
        for statement in statements:
            setattr(statement, _HAS_VARIABLES, has_variables)
        return statements

    def first_match(
        context: EvalContext, statements: list[ParsedStatement], effect: str
    ) -> ParsedStatement | None:
        for statement in statements:
            if statement.effect != effect:
                continue
            try:
                found = substituted(statement, context)
            except _UnresolvedError:
                continue
            if match(context, [found], effect) is not None:
                return statement
        return None

    def fnmatch(value: str, pattern: str) -> bool:
        if _LITERAL["*"] in pattern or _LITERAL["?"] in pattern:
            # Only these positions are compared literally; wildcards elsewhere still are wildcards.
            return _matches(value, pattern)
        return bool(like(value, pattern))

    iam_evaluator.parse_policy_document = parse_document
    iam_evaluator._first_match = first_match
    iam_evaluator.fnmatch_iam_cs = fnmatch


def substituted(statement: ParsedStatement, context: EvalContext) -> ParsedStatement:
    """Return a statement with values in place of its variables; LookupError without a value."""
    if not getattr(statement, _HAS_VARIABLES, False):
        return statement
    return replace(
        statement,
        resources=[_resolve(each, context) for each in statement.resources],
        not_resources=[_resolve(each, context) for each in statement.not_resources],
        conditions=_resolve_conditions(statement.conditions, context),
    )


def _resolve_conditions(conditions: Any, context: EvalContext) -> Any:
    return {
        operator: {key: _resolve_values(operator, each, context) for key, each in keys.items()}
        for operator, keys in conditions.items()
    }


def _resolve_values(operator: str, values: Any, context: EvalContext) -> Any:
    if isinstance(values, list):
        return [_resolve_values(operator, each, context) for each in values]
    if not isinstance(values, str):
        return values
    found = _resolve(values, context)
    # The other operators compare the whole text, without wildcards.
    has_wildcards = "like" in operator.lower() or "arn" in operator.lower()
    return found if has_wildcards else found.translate(_AS_WRITTEN)


def _resolve(text: str, context: EvalContext) -> str:
    return _VARIABLE.sub(lambda found: _value_of(found[1], context), text)


def _value_of(name: str, context: EvalContext) -> str:
    if name in _LITERAL:
        return _LITERAL[name]
    with_default = _DEFAULT.fullmatch(name)
    key = with_default["name"] if with_default else name
    value = iam_evaluator._resolve_condition_key(key.strip(), context)
    if isinstance(value, str):
        return value.translate(_TO_COMPARE)
    if value is None and with_default:
        return with_default["default"]
    # Also for a key with several values: which of them is meant would be undefined.
    raise _UnresolvedError(name)


def _matches(value: str, pattern: str) -> bool:
    parts = {"*": ".*", "?": ".", _LITERAL["*"]: re.escape("*"), _LITERAL["?"]: re.escape("?")}
    expression = "".join(parts.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _version_of(document: Any) -> str:
    """Return the version of a policy, which ministack has accepted or ignored already."""
    if isinstance(document, str):
        try:
            document = json.loads(document)
        except ValueError:
            return ""
    return str(document.get("Version", "")) if isinstance(document, dict) else ""
