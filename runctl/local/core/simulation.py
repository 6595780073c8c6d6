"""SimulatePrincipalPolicy: what a role's policies say about actions, resources and a context.

botocore's model of IAM; the wire format is that of the query protocol.
"""

from __future__ import annotations

import contextlib
import contextvars
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from ministack.core import iam_evaluator

from runctl.local.core import iam, records
from runctl.local.core.protocol import ApiError

ACTION = "SimulatePrincipalPolicy"
_NAMESPACE = "https://iam.amazonaws.com/doc/2010-05-08/"
_LISTS = {"ActionNames": "", "ResourceArns": "", "ContextEntries": "ContextKeyName"}
_DECISIONS = {"Allow": "allowed", "ImplicitDeny": "implicitDeny", "Deny": "explicitDeny"}
_FROM_MILD = tuple(_DECISIONS.values())
_SCALARS = frozenset({"Action", "Version", "PolicySourceArn", "MaxItems"})

is_simulating: contextvars.ContextVar[bool] = contextvars.ContextVar("simulating", default=False)
Form = Mapping[str, str]


@contextlib.contextmanager
def _simulating() -> Iterator[None]:
    token = is_simulating.set(True)
    try:
        yield
    finally:
        is_simulating.reset(token)


def simulate(form: Form, gate: iam.Gate) -> bytes:
    """Evaluate every action on every resource; return the answer."""
    _refuse_unknown(form)
    role = form.get("PolicySourceArn", "")
    actions, resources = _listed(form, "ActionNames"), _listed(form, "ResourceArns") or ["*"]
    if not role or not actions:
        raise ApiError("ValidationError", "PolicySourceArn and ActionNames are required.")
    gate(ACTION, principal=[role])
    name = role.rpartition("/")[2]
    if ":role/" not in role or records.role_arn(name) != role or not records.has_role(name):
        raise ApiError("NoSuchEntity", f"The role with name {name} cannot be found.", status=404)
    account = role.split(":")[4]
    policies = iam_evaluator._gather_role_policies(name, account)  # noqa: SLF001
    context = _entries(form)
    results = []
    with _simulating():
        for action in actions:
            decided = []
            for resource in resources:
                asked = iam_evaluator.EvalContext(
                    principal_arn=role,
                    principal_type="AssumedRole",
                    principal_account=account,
                    action=action,
                    resource_arn=resource,
                    region=records.region(),
                    service_context=context,
                    principal_keys={
                        key: value
                        for key, value in context.items()
                        if key.startswith("aws:principal")
                    },
                )
                decision = _DECISIONS[iam_evaluator.evaluate(asked, policies).decision]
                missing = _missing(policies, action, context) if decision != "allowed" else []
                decided.append(_Decided(resource, decision, tuple(missing)))
            results.append(_result(action, decided))
    return _rendered("".join(results))


def refuse(code: str, message: str) -> bytes:
    """Format an error as IAM does."""
    return (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{escape(code)}</Code>'
        f"<Message>{escape(message)}</Message></Error><RequestId>{uuid.uuid4()}</RequestId>"
        "</ErrorResponse>"
    ).encode()


def _refuse_unknown(form: Form) -> None:
    for field in form:
        head = field.partition(".")[0]
        if field not in _SCALARS and head not in _LISTS:
            raise ApiError("ValidationError", f"The local cloud does not simulate with {head}.")


def _listed(form: Form, name: str) -> list[str]:
    return [form[f"{name}.member.{number}"] for number in _numbers(form, name)]


def _numbers(form: Form, name: str) -> Sequence[int]:
    prefix = f"{name}.member."
    found = {
        int(field.removeprefix(prefix).partition(".")[0])
        for field in form
        if field.startswith(prefix)
    }
    return sorted(found)


def _entries(form: Form) -> dict[str, Any]:
    """Return the context, by the condition keys in lower case."""
    context: dict[str, Any] = {}
    for number in _numbers(form, "ContextEntries"):
        prefix = f"ContextEntries.member.{number}"
        values = _listed(form, f"{prefix}.ContextKeyValues")
        kind = form.get(f"{prefix}.ContextKeyType", "string")
        key = form[f"{prefix}.ContextKeyName"].lower()
        context[key] = values if kind.endswith("List") else (values or [""])[0]
    return context


def _missing(policies: Any, action: str, context: Mapping[str, Any]) -> list[str]:
    """List the condition keys of statements about an action that the context does not have."""
    keys = {
        key
        for statement in (statement for policy in policies for statement in policy)
        if statement.effect == "Allow"
        and iam_evaluator._action_matches(action, statement.actions, statement.not_actions)  # noqa: SLF001
        for operator in statement.conditions.values()
        for key in operator
    }
    return sorted(key for key in keys if key.lower() not in context)


@dataclass(frozen=True)
class _Decided:
    """The decision about an action on one resource."""

    resource: str
    decision: str
    missing: tuple[str, ...]


def _result(action: str, decided: Sequence[_Decided]) -> str:
    """Return the only result of an action: the most restrictive decision, and those inside it."""
    worst = max((each.decision for each in decided), key=_FROM_MILD.index)
    missing = dict.fromkeys(key for each in decided for key in each.missing)
    members = "".join(
        f"<member><EvalResourceName>{escape(each.resource)}</EvalResourceName>"
        f"<EvalResourceDecision>{each.decision}</EvalResourceDecision><MatchedStatements/>"
        f"{_missing_values(each.missing)}</member>"
        for each in decided
        if each.resource != "*"
    )
    return (
        f"<member><EvalActionName>{escape(action)}</EvalActionName>"
        # A pattern of the ARNs that the action knows, which the local cloud does not.
        "<EvalResourceName>*</EvalResourceName>"
        f"<EvalDecision>{worst}</EvalDecision><MatchedStatements/>"
        f"{_missing_values(missing)}"
        f"<ResourceSpecificResults>{members}</ResourceSpecificResults></member>"
    )


def _missing_values(keys: Iterable[str]) -> str:
    members = "".join(f"<member>{escape(key)}</member>" for key in keys)
    return f"<MissingContextValues>{members}</MissingContextValues>"


def _rendered(results: str) -> bytes:
    return (
        f'<{ACTION}Response xmlns="{_NAMESPACE}"><{ACTION}Result>'
        f"<EvaluationResults>{results}</EvaluationResults><IsTruncated>false</IsTruncated>"
        f"</{ACTION}Result><ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId>"
        f"</ResponseMetadata></{ACTION}Response>"
    ).encode()
