"""The mask over secrets in what leaves the machine: logs, and the words that a report quotes.

It hides exact values of eight characters or more, and the lines of those that have several. Shorter
ones would hide ordinary words. A value that a program encodes, or prints in parts, is not known.
"""

import re
from collections.abc import Iterable

from runctl.model.plain_secrets import MASK

MIN_LENGTH = 8


class SecretMask:
    """Replaces the values that it was given; it may be used by several threads."""

    def __init__(self) -> None:
        self._pattern: re.Pattern[str] | None = None
        # Whether all values are known: before that, nothing that a trainer printed may leave.
        self.is_ready = False

    def hide(self, values: Iterable[str], *, are_all: bool = True) -> None:
        """Hide these values from now on; `are_all` says that there are no others."""
        texts = {
            text
            for value in values
            for text in (value, *map(str.strip, value.splitlines()))
            if len(text) >= MIN_LENGTH
        }
        # One text may be the beginning of another: the longest match wins.
        ordered = sorted(texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self.is_ready = are_all

    def apply(self, text: str) -> str:
        """Return a text without the values."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub(MASK, text)
