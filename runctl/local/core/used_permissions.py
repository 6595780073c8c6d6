"""Which permissions each role has used: every allowed decision of the evaluator, with one resource.

The list of what the roles of a deployment do is compared with it.
"""

from __future__ import annotations

import threading
from typing import Any

from ministack.core import iam_evaluator

from runctl.local.core.simulation import is_simulating


class UsedPermissions:
    """The actions that each role was allowed, and the first resource of each."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def note(self, principal: str, action: str, resource: str) -> None:
        """Record an allowed action of a role or of a session of one; other principals are not."""
        _, _, name = principal.partition("role/")
        if name:
            # arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION, arn:aws:iam::ACCOUNT:role/PATH/NAME
            is_session = ":assumed-role/" in principal
            role = name.partition("/")[0] if is_session else name.rpartition("/")[2]
            with self._lock:
                self._first.setdefault((role, action), resource)

    def listed(self) -> list[dict[str, str]]:
        """Return each role and action, with the first resource."""
        with self._lock:
            return [
                {"role": role, "action": action, "resource": resource}
                for (role, action), resource in sorted(self._first.items())
            ]


def install() -> UsedPermissions:
    """Record what the evaluator allows from now on, once."""
    used, evaluate = UsedPermissions(), iam_evaluator.evaluate

    def evaluate_and_note(context: Any, policies: Any, *limits: Any) -> Any:
        result = evaluate(context, policies, *limits)
        if result.decision == "Allow" and not is_simulating.get():
            used.note(context.principal_arn, context.action, context.resource_arn)
        return result

    iam_evaluator.evaluate = evaluate_and_note
    return used
