"""What the policy of a bucket certainly denies to a role; IAM does not simulate that for roles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Of the condition keys, those whose values are known beforehand: all requests use TLS.
_SECURE = "aws:securetransport"
_NEGATED = {"StringNotEquals", "StringNotLike", "ArnNotEquals", "ArnNotLike"}
_PATTERNS = {"StringLike", "StringNotLike", "ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"}
_COMPARED = {"StringEquals", "Bool"} | _NEGATED | _PATTERNS


def denied_by(
    policy: Mapping[str, Any], *, role: str, calls: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the actions and resources that a statement denies whatever else a request says.

    A statement with a condition that depends on the request, such as its endpoint, is not counted.
    """
    denials = [
        statement
        for statement in _listed(policy.get("Statement"))
        if statement.get("Effect") == "Deny"
        and _is_about(statement, role)
        and _applies(statement.get("Condition") or {}, role)
    ]
    return [
        (action, resource)
        for action, resource in calls
        if any(_covers(statement, action, resource) for statement in denials)
    ]


def _is_about(statement: Mapping[str, Any], role: str) -> bool:
    if "NotPrincipal" in statement:
        return not _names(statement["NotPrincipal"], role)
    return _names(statement.get("Principal"), role)


def _names(principal: Any, role: str) -> bool:
    """Whether a principal of a policy is a role: everybody, the role, or its account."""
    found = principal.get("AWS") if isinstance(principal, Mapping) else principal
    account = role.split(":")[4]
    known = {"*", role, account, f"{role.partition('::')[0]}::{account}:root"}
    return any(each in known for each in _listed(found))


def _covers(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    for name, value, ignored in (("Action", action, re.IGNORECASE), ("Resource", resource, 0)):
        if f"Not{name}" in statement:
            if _matches(statement[f"Not{name}"], value, ignored):
                return False
        elif not _matches(statement.get(name), value, ignored):
            return False
    return True


def _applies(conditions: Mapping[str, Mapping[str, Any]], role: str) -> bool:
    """Whether all conditions are known to be fulfilled by every request of a role."""
    known = {
        _SECURE: "true",
        "aws:principalarn": role,
        "aws:principalaccount": role.split(":")[4],
    }
    for operator, tests in conditions.items():
        kind = operator.removesuffix("IfExists")
        for key, values in tests.items():
            value = known.get(key.lower())
            if kind not in _COMPARED or value is None:
                return False
            expected = [str(each) for each in _listed(values)]
            if kind == "Bool":
                found = value in {each.lower() for each in expected}
            elif kind in _PATTERNS:
                found = _matches(expected, value)
            else:
                found = value in expected
            if found == (kind in _NEGATED):
                return False
    return True


def _matches(patterns: Any, value: str, flags: int = 0) -> bool:
    return any(
        re.fullmatch(
            re.escape(str(pattern)).replace(r"\*", ".*").replace(r"\?", "."),
            value,
            flags | re.DOTALL,
        )
        for pattern in _listed(patterns)
    )


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
