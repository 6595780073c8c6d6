"""SSM commands to the agents on instances."""

import contextlib
import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import RefusedError, TransientError
from runctl.model.excerpt import last_part

# How long SSM may try to reach the instance; 30 is the minimum that it accepts.
DELIVERY_SECONDS = 30
# SSM knows no tags of an instance that has not registered, and the permission requires ours.
NOT_PERMITTED = frozenset({"AccessDenied", "AccessDeniedException"})
UNDER_WAY = frozenset({"Pending", "InProgress", "Delayed", "Cancelling"})
# A start that fails does so by then: the agent is not fetched, or the role lacks something.
STARTED_WITHIN = timedelta(seconds=30)
LOOK_EVERY = timedelta(seconds=1)
LAST_WORDS = 700

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The result of a command on an instance: SSM's status, and the end of its output."""

    status: str
    output: str
    errors: str

    @property
    def succeeded(self) -> bool:
        """Whether it exited 0."""
        return self.status == "Success"


def read_result(client: Any, command_id: str, instance_id: str) -> CommandResult | None:
    """Return how a command ended, or None while it has not.

    SSM may not know the invocation for some seconds after it accepted the command.
    """
    with translated():
        try:
            answer = client.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
        except ClientError as exc:
            if code_of(exc) == "InvocationDoesNotExist":
                return None
            raise
    if answer["Status"] in UNDER_WAY:
        return None
    return CommandResult(
        status=answer["Status"],
        output=answer.get("StandardOutputContent", ""),
        errors=answer.get("StandardErrorContent", ""),
    )


class SsmCommands:
    """Implements `runctl.control.ports.Commands`."""

    def __init__(self, client: Any, *, document: str, start_document: str = "") -> None:
        self._client = client
        self._document = document
        self._start_document = start_document

    def send(self, instance_id: str, action: str, *, deadline: datetime | None = None) -> bool:
        """Ask for `drain`, `checkpoint` or `stop`; False if the SSM agent is not registered."""
        parameters = {"action": [action]}
        if deadline is not None:
            text = deadline.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            parameters["deadline"] = [text]
        return bool(self._send(instance_id, self._document, parameters))

    def start(self, instance_id: str, *, run_id: str, attempt: int) -> bool:
        """Start the agent for an attempt on an existing instance; False when SSM does not reach it.

        A command whose answer was lost may be sent again: the machine recognizes it by the run and
        the attempt. An agent that fails to start cannot report it, so this waits a moment for the
        result; a RefusedError quotes its output. A start that takes longer counts as successful.
        """
        command_id = self._send(
            instance_id,
            self._start_document,
            {"action": ["start"], "run": [run_id], "attempt": [str(attempt)]},
        )
        if not command_id:
            return False
        result = self._await(command_id, instance_id)
        if result is not None and result.status == "Failed":
            output = last_part((result.errors or result.output).strip(), LAST_WORDS)
            raise RefusedError(
                f"cannot run an attempt: {output or 'the start of the agent failed'}; the role of "
                "its instance profile needs the policy that the deployment exports"
            )
        return True

    def _await(self, command_id: str, instance_id: str) -> CommandResult | None:
        until = time.monotonic() + STARTED_WITHIN.total_seconds()
        while time.monotonic() < until:
            with contextlib.suppress(TransientError):
                if (result := read_result(self._client, command_id, instance_id)) is not None:
                    return result
            time.sleep(LOOK_EVERY.total_seconds())
        return None

    def _send(self, instance_id: str, document: str, parameters: dict[str, list[str]]) -> str:
        """Return the command's id, or an empty text when SSM does not reach the instance.

        The permission requires a tag on the instance, which SSM does not know before the instance
        has registered: it then refuses the command for lack of permission.
        """
        with translated():
            try:
                answer = self._client.send_command(
                    InstanceIds=[instance_id],
                    DocumentName=document,
                    Parameters=parameters,
                    TimeoutSeconds=DELIVERY_SECONDS,
                )
            except ClientError as exc:
                # Until the SSM agent has registered, and again once the instance is gone.
                if code_of(exc) == "InvalidInstanceId":
                    return ""
                if code_of(exc) in NOT_PERMITTED:
                    # If the tag has gone, or the role lacks the permission, this is its only trace.
                    logger.warning("%s is not registered with SSM, or: %s", instance_id, exc)
                    return ""
                raise
        return str(answer["Command"]["CommandId"])
