"""The process in which a program continues after its own exit, if it put itself there."""

from collections.abc import Sequence

from runctl.agent.runtime.process_table import ProcessInfo
from runctl.agent.runtime.stop_targets import is_bystander, role_of

# A process that began so few seconds before the exit was started as the last thing before it.
LAST_MOMENT = 10.0


def background_process(left: Sequence[ProcessInfo], *, since_exit: float) -> ProcessInfo | None:
    """Return the process in which a program continues, from those that it left.

    A helper that a script starts before the training is older, a service is known by its name, and
    a process that only writes a save has ended by now.
    """
    started_last = [
        info
        for info in left
        if info.age - since_exit < LAST_MOMENT and not is_bystander(info, left)
    ]
    programs = [info for info in started_last if role_of(info) == "trainer"]
    return next(reversed(programs or started_last), None)
