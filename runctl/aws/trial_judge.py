"""The function that judges trials at rungs, as the agent asks it."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from runctl.aws.errors import translated
from runctl.model.errors import RefusedError, TransientError, UnexpectedAwsError


class TrialJudge:
    """Implements `runctl.agent.ports.Judge`.

    A repeated question gets the same answer: the function records the first one. `prove` returns
    the identity of this instance, which is answered about its own run only.
    """

    def __init__(
        self, client_of: Callable[[str], Any], *, prove: Callable[[], Mapping[str, str]]
    ) -> None:
        self._client_of = client_of
        self._prove = prove

    def goes_on(self, function: str, run_id: str, *, rung: int, value: float) -> bool:
        """Return whether a trial goes on after a rung at which its metric has a value.

        Raises RefusedError if the function does not accept that this instance asks about the trial.
        """
        event: dict[str, Any] = {"run_id": run_id, "rung": rung, "value": value}
        # Signed for each question: an identity is valid for a minute.
        event["identity"] = self._prove()
        with translated():
            # Created here, because few attempts need it.
            client = self._client_of("lambda")
            answer = client.invoke(FunctionName=function, Payload=json.dumps(event).encode())
            body = answer["Payload"].read()
        if "FunctionError" in answer:
            raise TransientError(f"{function} failed: {body[:500].decode(errors='replace')}")
        try:
            answer = json.loads(body)
            if answer.get("status") == "refused":
                raise RefusedError(f"{function} refused to answer: {answer.get('reason', '')}")
            return bool(answer["goes_on"])
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise UnexpectedAwsError(f"{function} answered {body[:100]!r}") from exc
