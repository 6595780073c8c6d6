"""What the agent needs of AWS besides the ledger and the checkpoint store; `runctl.aws` has it.

Each call raises TransientError when waiting may help, RefusedError when a permission is missing,
and UnexpectedAwsError otherwise.
"""

from collections.abc import Mapping
from typing import Any, Protocol


class Workflow(Protocol):
    """The Train task of the state machine, by its token."""

    def beat(self, token: str) -> bool:
        """Send a heartbeat; False when the token is no longer valid."""
        ...

    def report(self, token: str, document: Mapping[str, Any]) -> bool:
        """Complete the task with its report; False when the token is no longer valid."""
        ...
