"""The agent's own log: a file, and memory for the lines that do not fit on a full disk."""

import logging
import os
import time
from collections import deque
from pathlib import Path

from runctl.agent.reporting.growing_file import KEPT_BYTES, read_end
from runctl.agent.reporting.secret_mask import SecretMask

MAX_LINES = 2000


class MaskedFormatter(logging.Formatter):
    """Writes a record with its instant and without secrets, tracebacks included."""

    def __init__(self, mask: SecretMask) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
        )
        self.converter = time.gmtime
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines."""
        return self._mask.apply(super().format(record))


class OwnLog(logging.Handler):
    """Appends to a file. Lines that cannot be written are still shipped, and stored at the end.

    It never raises and never holds back a line for later, as a buffered stream would.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._is_torn = False
        self._waiting: deque[str] = deque(maxlen=MAX_LINES)
        self._unwritten: deque[str] = deque(maxlen=MAX_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        text = self.format(record)
        try:
            self._append(text)
        except OSError:
            self._waiting.append(text)
            self._unwritten.append(text)

    def _append(self, text: str) -> None:
        line = f"{text}\n".encode(errors="backslashreplace")
        if self._is_torn:
            line = b"\n" + line
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError("only a part of the line was written")

    def take_unwritten(self) -> list[str]:
        """Return the lines that the file lacks and that were not returned yet."""
        lines = []
        while self._waiting:
            lines += self._waiting.popleft().splitlines()
        return lines

    def read_end(self) -> bytes:
        """Return the file's end and, after it, all that it lacks."""
        try:
            written = read_end(self._path, KEPT_BYTES)
        except FileNotFoundError:
            written = b""
        lacking = "".join(f"{line}\n" for line in self._unwritten.copy())
        return written + lacking.encode(errors="backslashreplace")
