"""The metadata fence: rules that keep the trainer's cgroup away from the instance role.

`runctl-fence.service` loads them at every boot and leaves its result in a file of /run. A trainer
starts only when that says `loaded`, and a connection from its cgroup fails.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runctl.agent.instance.paths import Paths
from runctl.agent.runtime.systemd_scope import scope
from runctl.agent.runtime.trainer_user import TrainerUser, as_user_words
from runctl.model.errors import RequestError

LOADED = "loaded"
ADDRESSES = ("169.254.169.254:80", "[fd00:ec2::254]:80")
PROBE_TRIES, PROBE_SECONDS, PROBE_PAUSE = 3, 10, 1
REMEDY = "the instance's image needs nft (package nftables), cgroup v2 and systemd"
_PROBE = """import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        continue
    print("the metadata service answers the trainer at " + address)
"""


def require_fence(paths: Paths) -> None:
    """Raise RequestError, which ends the attempt, unless the unit has loaded the fence."""
    try:
        result = paths.fence.read_text(errors="replace").strip()
    except OSError as exc:
        result = f"runctl-fence.service left no result ({exc.strerror})"
    if result != LOADED:
        raise _missing(f"{result}; {REMEDY}")


def prove_fence(
    paths: Paths, addresses: Sequence[str] = ADDRESSES, *, user: TrainerUser | None = None
) -> None:
    """Raise RequestError unless the metadata service refuses processes in the trainer's slice.

    The same is demanded for the processes of its `user` anywhere else.

    Below another root, as on the local cloud, the machine's rules are not ours, and only the
    unit's result counts.
    """
    require_fence(paths)
    if paths.root != Path("/"):
        return
    if problem := probe(addresses):
        raise _missing(f"the rules are loaded, but {problem}")
    if user is not None and (problem := probe(addresses, as_user_words(user))):
        raise _missing(f"the rules are loaded, but outside of the trainer's slice {problem}")


def probe(addresses: Sequence[str], starter: Sequence[str] | None = None) -> str:
    """Connect to `addresses` from the trainer's slice; return the problem, or nothing.

    Other words before the command may start it elsewhere.

    If systemd cannot create the scope at once, that proves nothing: it is tried again.
    """
    words = [
        *(scope() if starter is None else starter),
        sys.executable,
        "-I",
        "-S",
        "-c",
        _PROBE,
        *addresses,
    ]
    problem = ""
    for number in range(PROBE_TRIES):
        if number:
            time.sleep(PROBE_PAUSE)
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            problem = f"testing them failed: {exc}"
            continue
        if done.returncode == 0:
            return done.stdout.strip()
        problem = f"testing them failed with exit code {done.returncode}: {done.stderr.strip()}"
    return problem


def _missing(problem: str) -> RequestError:
    return RequestError(
        "no trainer was started, since nothing keeps it from the credentials of the instance "
        f"role: {problem}"
    )
