"""The function that judges trials at rungs, as the agent asks it."""

import json
from collections.abc import Callable
from typing import Any

from runctl.aws.errors import translated
from runctl.model.errors import TransientError, UnexpectedAwsError


class TrialJudge:
    """Implements `runctl.agent.ports.Judge`.

    A repeated question gets the same answer: the function records the first one.
    """

    def __init__(self, client_of: Callable[[str], Any]) -> None:
        self._client_of = client_of

    def goes_on(self, function: str, run_id: str, *, rung: int, value: float) -> bool:
        """Return whether a trial goes on after a rung at which its metric has a value."""
        event = {"run_id": run_id, "rung": rung, "value": value}
        with translated():
            # Created here, because few attempts need it.
            client = self._client_of("lambda")
            answer = client.invoke(FunctionName=function, Payload=json.dumps(event).encode())
            body = answer["Payload"].read()
        if "FunctionError" in answer:
            raise TransientError(f"{function} failed: {body[:500].decode(errors='replace')}")
        try:
            return bool(json.loads(body)["goes_on"])
        except (KeyError, TypeError, ValueError) as exc:
            raise UnexpectedAwsError(f"{function} answered {body[:100]!r}") from exc
