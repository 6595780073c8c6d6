"""The engine of this machine: started, and installed on a machine of our own that has none."""

import json
import logging
import os
import shutil
import subprocess
import time
from pathlib import Path

from runctl.agent.instance.paths import Paths
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.model.errors import RequestError

START_SECONDS = 60.0
POLL_SECONDS = 0.2
# Seconds for each command; another installation may hold the package manager's lock.
COMMANDS: dict[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "apt-get": (
        (("apt-get", "-qq", "update"), 120),
        (
            ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "install", "-y",
             "--no-install-recommends", "docker.io"),
            420,
        ),
    ),
    "dnf": ((("dnf", "-q", "-y", "install", "docker"), 420),),
}  # fmt: skip
REMEDY = (
    "install one (apt-get install docker.io, or dnf install docker) and start it, or use a machine "
    "that runctl launches"
)

logger = logging.getLogger(__name__)


def require_engine(engine: Engine, paths: Paths, *, may_install: bool) -> None:
    """Start the engine if it does not run, and install it if there is none.

    On a machine that is not ours nothing is installed. Raises RequestError without an engine.
    """
    if _is_running(engine):
        return
    problem = _start(engine)
    if problem and may_install and shutil.which("dockerd") is None:
        place_images(paths)
        refusal = _install()
        problem = f"{problem}; installing one failed: {refusal}" if refusal else _start(engine)
    if problem:
        raise RequestError(f"the machine has no running Docker engine: {problem}; {REMEDY}")


def place_images(paths: Paths) -> None:
    """Let an engine that is installed next keep its images where the run's files are.

    That is on the machine's own disks, if it has any. An engine that somebody has configured, or
    that has images, keeps its place.
    """
    settings = paths.root / "etc/docker/daemon.json"
    has_images = (paths.root / "var/lib/docker").exists()
    if not os.path.ismount(paths.state) or settings.exists() or has_images:
        return
    try:
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps({"data-root": str(paths.state / "engine")}))
    except OSError as exc:
        logger.warning("images are kept on the root volume: %s", exc)


def _is_running(engine: Engine) -> bool:
    try:
        engine.call("version", "--format", "{{.Server.Version}}")
    except EngineError as exc:
        logger.info("the engine does not answer: %s", exc)
        return False
    return True


def _start(engine: Engine) -> str:
    """Start the engine's service; return the problem, or an empty text."""
    problem = _run(("systemctl", "start", "docker.service"), START_SECONDS)
    if problem:
        return problem
    until = time.monotonic() + START_SECONDS
    while not _is_running(engine):
        if time.monotonic() > until:
            return f"docker.service was started, but does not answer after {START_SECONDS:.0f} s"
        time.sleep(POLL_SECONDS)
    return ""


def _install() -> str:
    manager = next((name for name in COMMANDS if shutil.which(name)), "")
    if not manager:
        return "there is neither apt-get nor dnf to install it with"
    logger.info("installing the Docker engine with %s", manager)
    began = time.monotonic()
    for words, seconds in COMMANDS[manager]:
        if problem := _run(words, seconds):
            return problem
    logger.info("installed it in %.0f s", time.monotonic() - began)
    return ""


def _run(words: tuple[str, ...], seconds: float) -> str:
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired:
        return f"`{' '.join(words)}` did not end within {seconds:.0f} s"
    except OSError as exc:
        return f"{Path(words[0]).name} cannot be run: {exc.strerror}"
    if done.returncode == 0:
        return ""
    last = (done.stderr or done.stdout).strip().splitlines()[-3:]
    return f"`{' '.join(words)}` failed: {' '.join(last) or done.returncode}"
