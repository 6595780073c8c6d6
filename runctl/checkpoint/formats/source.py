"""The few bytes of a file by which its format is judged."""

from collections.abc import Callable
from dataclasses import dataclass

# The most that is read from one file, however large it is and whatever it claims.
MAX_READ_BYTES = 64 * 1024
HEAD_BYTES = 512


@dataclass(frozen=True)
class Verdict:
    """What a format says about a file.

    `problem` is why the file cannot be complete; it is empty if nothing indicates that.
    `is_certain` means that no reader of the format would accept such a file; otherwise a program
    may write such files on purpose. `is_proven` means that the format shows that nothing is missing
    at the end.
    """

    format: str
    problem: str = ""
    is_certain: bool = True
    is_proven: bool = False


class BudgetSpentError(Exception):
    """A format would have to read more of a file than it may."""


class Source:
    """A file of `size` bytes, of which at most MAX_READ_BYTES can be read through `read_at`."""

    def __init__(self, name: str, size: int, read_at: Callable[[int, int], bytes]) -> None:
        self.name = name.rpartition("/")[2].lower()
        self.size = size
        self.left = MAX_READ_BYTES
        self._read_at = read_at
        self.head = self.read(0, HEAD_BYTES)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes at `offset`, and none outside the file."""
        if offset < 0 or offset >= self.size or length <= 0:
            return b""
        length = min(length, self.size - offset)
        if length > self.left:
            raise BudgetSpentError
        self.left -= length
        return self._read_at(offset, length)

    def tail(self, length: int) -> bytes:
        """Return the last bytes, at most `length` of them."""
        length = min(length, self.size)
        return self.read(self.size - length, length)
