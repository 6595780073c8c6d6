"""The KMS keys of volumes: EC2 finds out after the launch whether it may use them.

EC2 user guide, "Instance terminates immediately": the request is answered with an instance, which
goes from pending to terminated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from runctl.local.core import records
from runctl.local.core.instance import End
from runctl.local.core.protocol import ApiError

# Every caller that may launch may use it.
_AWS_MANAGED = "alias/aws/ebs"
_NOT_USABLE = End("Client.InternalError", "Client error on launch", "", "its key may not be used")
_NOT_ENABLED = End(
    "Client.InvalidKMSKey.InvalidState",
    "The KMS key provided is in an incorrect state",
    "",
    "its key is not enabled",
)


class Authorize(Protocol):
    """Checks the permissions that a call needs."""

    def __call__(self, action: str, *, on_launch: bool = False, **facts: list[str]) -> None:
        """Refuse the call unless it is allowed with these facts."""


def end_of_launch(data: Mapping[str, Any], authorize: Authorize) -> End | None:
    """Return the end of a launch whose volumes cannot be encrypted, or None."""
    for mapping in data.get("BlockDeviceMappings") or []:
        name = (mapping.get("Ebs") or {}).get("KmsKeyId", "")
        if not name or name.endswith(_AWS_MANAGED):
            continue
        key = records.find_key(name)
        if key is None:
            return _NOT_USABLE
        if key.state != "Enabled":
            return _NOT_ENABLED
        try:
            authorize("UseVolumeKey", key=[key.arn], key_aliases=list(key.aliases))
        except ApiError:
            return _NOT_USABLE
    return None
