"""The metadata fence: rules that keep the trainer's cgroup away from the instance role.

`runctl-fence.service` loads them at every boot and leaves its result in a file of /run. A trainer
starts only when that says `loaded`, and a connection from its cgroup fails.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runctl.agent.settings import Paths
from runctl.agent.trainer import scope
from runctl.model.errors import RequestError

LOADED = "loaded"
ADDRESSES = ("169.254.169.254:80", "[fd00:ec2::254]:80")
PROBE_SECONDS = 30
REMEDY = "the instance's image needs nft (package nftables), cgroup v2 and systemd"
_PROBE = """import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        continue
    sys.exit("the metadata service answers the trainer at " + address)
"""


def require_fence(paths: Paths) -> None:
    """Raise RequestError, which ends the attempt, unless the unit has loaded the fence."""
    try:
        said = paths.fence.read_text(errors="replace").strip()
    except OSError as exc:
        said = f"runctl-fence.service left no result ({exc.strerror})"
    if said != LOADED:
        raise _missing(said)


def prove_fence(paths: Paths, addresses: Sequence[str] = ADDRESSES) -> None:
    """Raise RequestError unless a process beside the trainer is refused by the metadata service.

    Below another root, as on the local cloud, the machine's rules are not ours, and only the
    unit's result counts.
    """
    require_fence(paths)
    if paths.root != Path("/"):
        return
    if problem := probe(addresses):
        raise _missing(problem)


def probe(addresses: Sequence[str]) -> str:
    """Connect to `addresses` from the trainer's cgroup; return what is wrong, if anything is."""
    words = [*scope(), sys.executable, "-I", "-S", "-c", _PROBE, *addresses]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"it could not be tried: {exc}"
    if done.returncode == 0:
        return ""
    return done.stderr.strip() or f"it could not be tried: exit code {done.returncode}"


def _missing(problem: str) -> RequestError:
    return RequestError(
        "no trainer was started, since nothing keeps it from the credentials of the instance "
        f"role: {problem}; {REMEDY}"
    )
