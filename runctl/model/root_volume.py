"""Root volumes of instances, as a launch template or a fleet request describes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.disk_options import BASE_IOPS, BASE_THROUGHPUT


@dataclass(frozen=True, kw_only=True)
class RootVolume:
    """A gp3 volume in GiB, MiB/s and IOPS; `key` is the KMS key that encrypts it.

    `device` is the name of the image's root device: a mapping of another one would add a volume.
    """

    device: str
    gib: int
    throughput: int = BASE_THROUGHPUT
    iops: int = BASE_IOPS
    key: str = ""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RootVolume | None":
        """Read what the deployment's stack wrote; None if it is of another version."""
        try:
            return cls(
                device=str(document["device"]),
                gib=int(document["gib"]),
                throughput=int(document["throughput"]),
                iops=int(document["iops"]),
                key=str(document["key"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
