"""Save events: what the trainer's helper reports about its saves."""

import contextlib
import json
from datetime import timedelta
from pathlib import Path

from runctl.agent.reporting.json_lines import Follower
from runctl.model.checkpoint import is_step

# A longer duration cannot be that of a save, and is ignored.
MAX_SAVE_TIME = timedelta(days=1)


class SaveEvents:
    """Reads RUNCTL_SAVED_FILE, to which the helper appends after each rename into place."""

    def __init__(self, path: Path) -> None:
        self._lines = Follower(path)
        self.step: int | None = None
        self.cost: timedelta | None = None
        self.was_asked_to_stop = False

    @property
    def has_helper(self) -> bool:
        """Whether the trainer uses the helper: it has reported a save."""
        return self.step is not None

    def read(self) -> bool:
        """Read what was reported since the last call; return whether a save was."""
        has_save = False
        for line in self._lines.read():
            with contextlib.suppress(ValueError, RecursionError):
                has_save |= self._note(json.loads(line))
        return has_save

    def _note(self, document: object) -> bool:
        """Note what one line says; return whether it reports a save."""
        if not isinstance(document, dict):
            return False
        if document.get("signal") == "SIGTERM":
            self.was_asked_to_stop = True
            return False
        step, seconds = document.get("step"), document.get("seconds")
        if not is_step(step):
            return False
        self.step = step
        if isinstance(seconds, int | float) and 0 < seconds <= MAX_SAVE_TIME.total_seconds():
            self.cost = timedelta(seconds=seconds)
        return True
