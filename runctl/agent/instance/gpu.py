"""The GPUs of this machine and their driver, as the machine itself shows them."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from runctl.policy.gpus import Driver

DEVICES = Path("/dev")
TIMEOUT = 60
_DEVICE = re.compile(r"nvidia\d+")
_VERSIONS = re.compile(r"Driver Version:\s*(?P<driver>[\d.]+)\s+CUDA Version:\s*(?P<cuda>[\d.]+)")


def gpu_devices(devices: Path = DEVICES) -> list[str]:
    """Return the names of the GPUs that the driver has made devices for."""
    return sorted(path.name for path in devices.iterdir() if _DEVICE.fullmatch(path.name))


def read_driver(environ: Mapping[str, str]) -> Driver:
    """Return the driver, with the problem instead of its versions where `nvidia-smi` fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env=dict(environ),
        )
    except OSError as exc:
        return Driver(problem=f"nvidia-smi cannot be run: {exc.strerror}")
    except subprocess.TimeoutExpired:
        return Driver(problem=f"nvidia-smi did not answer within {TIMEOUT} s")
    said = (done.stdout + done.stderr).strip()
    found = _VERSIONS.search(said)
    if done.returncode or found is None:
        last = said.splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Driver(problem=f"nvidia-smi failed: {last[0]}")
    return Driver(version=found["driver"], cuda=found["cuda"])
