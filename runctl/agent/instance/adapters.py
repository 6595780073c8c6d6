"""The Elastic Fabric Adapters of this machine, as devices."""

import re
from pathlib import Path

FOLDER = Path("/dev/infiniband")
_DEVICE = re.compile(r"uverbs\d+")


def adapter_devices(folder: Path = FOLDER) -> tuple[str, ...]:
    """Return the paths of the devices by which programs use the adapters; empty without any."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(str(path) for path in folder.iterdir() if _DEVICE.fullmatch(path.name)))
