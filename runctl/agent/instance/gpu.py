"""The GPUs of this machine."""

import re
from pathlib import Path

DEVICES = Path("/dev")
_DEVICE = re.compile(r"nvidia\d+")


def gpu_devices(devices: Path = DEVICES) -> list[str]:
    """Return the names of the GPUs that the driver has made devices for."""
    return sorted(path.name for path in devices.iterdir() if _DEVICE.fullmatch(path.name))
