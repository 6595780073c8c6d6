"""SSM: asking the agent on an instance for something."""

from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated

# How long SSM may try to reach the instance; 30 is the least that it takes.
DELIVERY_SECONDS = 30


class SsmCommands:
    """Implements `runctl.control.ports.Commands`."""

    def __init__(self, client: Any, *, document: str) -> None:
        self._client = client
        self._document = document

    def send(self, instance_id: str, action: str) -> bool:
        """Ask for `drain`, `checkpoint` or `stop`; False when the SSM agent is not there (yet)."""
        with translated():
            try:
                self._client.send_command(
                    InstanceIds=[instance_id],
                    DocumentName=self._document,
                    Parameters={"action": [action]},
                    TimeoutSeconds=DELIVERY_SECONDS,
                )
            except ClientError as exc:
                # Until the SSM agent has registered, and again once the instance is gone.
                if code_of(exc) == "InvalidInstanceId":
                    return False
                raise
        return True
