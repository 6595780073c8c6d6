"""What the trainer's helper tells about its saves."""

import contextlib
import json
from datetime import timedelta
from pathlib import Path

from runctl.agent.json_lines import Follower


class Saves:
    """Reads RUNCTL_SAVED_FILE, to which the helper appends after each rename into place."""

    def __init__(self, path: Path) -> None:
        self._lines = Follower(path)
        self.step: int | None = None
        self.cost: timedelta | None = None
        self.was_asked_to_stop = False

    @property
    def has_helper(self) -> bool:
        """Whether the trainer has told of a save, so it uses the helper."""
        return self.step is not None

    def read(self) -> bool:
        """Take note of what was told since the last call; whether there was anything."""
        told = False
        for line in self._lines.read():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                document = json.loads(line)
                if document.get("signal") == "SIGTERM":
                    self.was_asked_to_stop = True
                    continue
                self.step = int(document["step"])
                told = True
                seconds = float(document.get("seconds", 0))
                if seconds > 0:
                    self.cost = timedelta(seconds=seconds)
        return told
