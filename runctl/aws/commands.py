"""SSM: asking the agent on an instance for something."""

from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import RefusedError
from runctl.model.identity import LENT_TAG

# How long SSM may try to reach the instance; 30 is the least that it takes.
DELIVERY_SECONDS = 30


class SsmCommands:
    """Implements `runctl.control.ports.Commands`."""

    def __init__(self, client: Any, *, document: str, start_document: str = "") -> None:
        self._client = client
        self._document = document
        self._start_document = start_document

    def send(self, instance_id: str, action: str) -> bool:
        """Ask for `drain`, `checkpoint` or `stop`; False when the SSM agent is not there (yet)."""
        return self._send(instance_id, self._document, {"action": [action]})

    def start(self, instance_id: str, *, run_id: str, attempt: int) -> bool:
        """Start the agent for an attempt on a lent machine; False when SSM does not reach it.

        A command whose answer was lost is sent again: the machine tells it from a new one by the
        run and the attempt.
        """
        try:
            return self._send(
                instance_id,
                self._start_document,
                {"action": ["start"], "run": [run_id], "attempt": [str(attempt)]},
            )
        except RefusedError as exc:
            raise RefusedError(
                f"{exc}. If the machine is yours, let runctl command it: aws ec2 create-tags "
                f"--resources {instance_id} --tags Key={LENT_TAG},Value=yes"
            ) from exc

    def _send(self, instance_id: str, document: str, parameters: dict[str, list[str]]) -> bool:
        with translated():
            try:
                self._client.send_command(
                    InstanceIds=[instance_id],
                    DocumentName=document,
                    Parameters=parameters,
                    TimeoutSeconds=DELIVERY_SECONDS,
                )
            except ClientError as exc:
                # Until the SSM agent has registered, and again once the instance is gone.
                if code_of(exc) == "InvalidInstanceId":
                    return False
                raise
        return True
