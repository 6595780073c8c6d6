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

# It may be used by all that may launch.
_AWS_MANAGED = "alias/aws/ebs"
_NOT_USABLE = End("Client.InternalError", "Client error on launch", "", "its key may not be used")
_NOT_ENABLED = End(
    "Client.InvalidKMSKey.InvalidState",
    "The KMS key provided is in an incorrect state",
    "",
    "its key is not enabled",
)


class Authorize(Protocol):
    """Checks that the caller may do what a call entails."""

    def __call__(self, action: str, *, on_launch: bool = False, **facts: list[str]) -> None:
        """Raise a refusal unless the call with these facts is allowed."""


def end_of_launch(data: Mapping[str, Any], authorize: Authorize) -> End | None:
    """Return how a launch ends whose volumes cannot be encrypted with the keys that it names."""
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
