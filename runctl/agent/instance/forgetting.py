"""What an instance forgets between two runs of a group, or two attempts of a gang."""

import contextlib
import shutil
from pathlib import Path

from runctl.agent.instance.paths import CONTAINER_VARIABLES, Paths
from runctl.beneath.changes import remove

# Kept: environments and images, which the runs of a group share; inputs, of which the staging keeps
# what has not changed and the next run names, too; the kept archive of the code, which is verified.
_FOLDERS = (
    "project",
    "checkpoint",
    "partial",
    "output",
    "incoming",
    "incoming-partial",
    "log",
    "home",
)


def forget_attempt(paths: Paths) -> None:
    """Remove what belongs to the last attempt of a gang; its files are those of the next one, too.

    Its output is shipped, and the next attempt has a log stream of its own.
    """
    shutil.rmtree(paths.log, ignore_errors=True)
    shutil.rmtree(paths.requests, ignore_errors=True)
    for path in (paths.metrics, paths.checkpoint_request, paths.saved):
        _unlink(path)
    _unlink_variables(paths)
    paths.make()


def forget_run(paths: Paths) -> None:
    """Remove the files of the last run, its secrets and its requests.

    The marker of its report stays until the next attempt is recorded: an agent that is started
    again in between must not repeat the attempt.
    """
    for name in _FOLDERS:
        with contextlib.suppress(OSError):  # something is mounted there
            remove(paths.state / name)
    for path in (paths.metrics, paths.state / "left-out.json"):
        _unlink(path)
    for path in (paths.checkpoint_request, paths.saved):
        _unlink(path)
    _unlink_variables(paths)
    for folder in (paths.requests, paths.docker_config):
        shutil.rmtree(folder, ignore_errors=True)
    paths.make()


def _unlink_variables(paths: Paths) -> None:
    """Remove the variables of containers that were never created; they have secrets."""
    for path in paths.runtime.glob(CONTAINER_VARIABLES.format("*")):
        _unlink(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
