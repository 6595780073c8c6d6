"""A session of a synthesized role, with its tags and session policy, evaluated as IAM does."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ministack.core import iam_evaluator

from runctl.local.core import policy_variables
from tests.infra.templates import ACCOUNT, REGION, Role


@functools.cache
def _evaluator() -> Any:
    """Return the evaluator of the local cloud, which knows variables of policies."""
    policy_variables.install()
    return iam_evaluator


@dataclass(frozen=True, kw_only=True)
class RunSession:
    """A session of a role; `policy` is its session policy."""

    role: Role
    policy: str
    tags: Mapping[str, str] = field(default_factory=dict)

    def allows(self, action: str, resource: str = "*", **context: Any) -> bool:
        """Return whether it may do something; `context` has the condition keys."""
        evaluator = _evaluator()
        document = {"Version": "2012-10-17", "Statement": self.role.statements}
        request = evaluator.EvalContext(
            principal_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/RunRole/0001-a",
            principal_type="AssumedRole",
            principal_account=ACCOUNT,
            action=action,
            resource_arn=resource,
            region=REGION,
            service_context={key.lower(): value for key, value in context.items()},
            principal_keys={
                f"aws:principaltag/{name}".lower(): value for name, value in self.tags.items()
            },
        )
        policies = [evaluator.parse_policy_document(json.dumps(document))]
        limit = [evaluator.parse_policy_document(self.policy)]
        return bool(evaluator.evaluate(request, policies, limit).decision == "Allow")
