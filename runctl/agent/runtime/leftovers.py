"""What a trainer that exited by itself left running: writers to wait for, or the trainer itself."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runctl.agent.runtime.process_table import ProcessInfo, trainer_family
from runctl.agent.runtime.stop_targets import is_bystander, role_of
from runctl.agent.runtime.stopping import Writers

POLL = 0.1
# What began so shortly before the trainer's exit was started as the last thing that it did.
LAST_MOMENT = 10.0

logger = logging.getLogger(__name__)


def await_writers(folder: Path, is_too_late: Callable[[], bool]) -> list[ProcessInfo]:
    """Wait until nobody is writing to the folder, or about to; return who is left."""
    writers = Writers(folder)
    told: set[int] = set()
    while True:
        family = trainer_family()
        busy = writers.among(family, time.monotonic())
        if not busy or is_too_late():
            return family
        fresh = [info for info in busy if info.pid not in told]
        if fresh:
            logger.info(
                "the trainer has exited; waiting for %s, which may be saving",
                ", ".join(map(str, fresh)),
            )
        told |= {info.pid for info in fresh}
        time.sleep(POLL)


def daemon_among(left: Sequence[ProcessInfo], *, since_exit: float) -> ProcessInfo | None:
    """Return the process in which the trainer goes on, if it put itself into the background.

    A helper that a script starts before it trains is older, a service is known by its name, and
    what only writes has ended by now.
    """
    started_last = [
        info
        for info in left
        if info.age - since_exit < LAST_MOMENT and not is_bystander(info, left)
    ]
    programs = [info for info in started_last if role_of(info) == "trainer"]
    return next(reversed(programs or started_last), None)
