"""A Docker engine of its own, without a network, in a folder that is gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

START_SECONDS = 30
# It needs mounts and control groups, which only root may make.
CAN_RUN = os.geteuid() == 0 and shutil.which("dockerd") is not None

needs_engine = pytest.mark.skipif(
    not CAN_RUN and not os.environ.get("CI"),
    reason="no Docker engine: `make test` as root installs it, or apt-get install docker.io",
)


@dataclass(frozen=True)
class Engine:
    """A running engine; containers have no network of their own, but may share the machine's."""

    folder: Path

    def docker(self, *words: str | Path, code: int = 0) -> str:
        """Run the client against this engine and return its stdout."""
        done = subprocess.run(
            ["docker", *words],
            env={
                "PATH": os.environ["PATH"],
                "DOCKER_HOST": f"unix://{self.folder / 's'}",
                "DOCKER_CONFIG": str(self.folder / "client"),
                # BuildKit needs a plugin that Debian's client comes without.
                "DOCKER_BUILDKIT": "0",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def serving_engine() -> Iterator[Engine]:
    """Run an engine until the end of the block."""
    # A short path: that of a socket may have 108 characters at most.
    with tempfile.TemporaryDirectory(prefix="engine", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # what containers are given is found in it by users other than root
        (folder / "client").mkdir()
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
        # Its containers end with the namespace of their processes, and its mounts with that.
        command += ["--mount-proc", "--kill-child", "--propagation", "private"]
        command += ["dockerd", "--data-root", folder / "root", "--exec-root", folder / "x"]
        command += ["--pidfile", folder / "pid", "--host", f"unix://{folder / 's'}"]
        command += ["--cgroup-parent", f"/{folder.name}", "--storage-driver", "overlay2"]
        # It must change neither the firewall nor the routing of this machine.
        command += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not (folder / "s").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the engine did not start:\n{(folder / 'log').read_text()}")
                time.sleep(0.05)
            yield Engine(folder)
        finally:
            process.kill()
            process.wait()
