"""Fragments of a log line that is too long, or too slow, for one event: marked, and joined again.

Every fragment except the last ends with `[runctl: line KEY continues]`, every one except the first
begins with `[runctl: line KEY continued]`. Other lines may come between the fragments.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from runctl.model.excerpt import ELLIPSIS

_CONTINUED = re.compile(r"\A\[runctl: line (\S{1,80}) continued\]")
_CONTINUES = re.compile(r"\[runctl: line (\S{1,80}) continues\]\Z")
# The maximum size of the two marks, including their keys.
MARKS_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A whole line, which has no key, or a fragment of one."""

    text: str
    key: str = ""
    is_first: bool = True
    is_last: bool = True


def marked(fragment: Fragment) -> str:
    """Return a fragment as the text of an event, which must have at least one byte."""
    before = "" if fragment.is_first else f"[runctl: line {fragment.key} continued]"
    after = "" if fragment.is_last else f"[runctl: line {fragment.key} continues]"
    return f"{before}{fragment.text}{after}" or " "


def read_fragment(message: str) -> Fragment:
    """Read the text of an event."""
    before, after = _CONTINUED.search(message), _CONTINUES.search(message)
    if before and after and before[1] != after[1]:
        after = None
    found = before or after
    if found is None:
        return Fragment(text=message)
    begin = before.end() if before else 0
    end = after.start() if after else len(message)
    return Fragment(
        text=message[begin:end], key=found[1], is_first=before is None, is_last=after is None
    )


Source = TypeVar("Source")


@dataclass
class Joiner(Generic[Source]):
    """Joins the fragments of lines, each of which comes with its source."""

    _open: dict[str, tuple[Source, list[str]]] = field(default_factory=dict)

    def join(self, source: Source, message: str) -> tuple[Source, str] | None:
        """Return the line that a message completes, with the source of its first fragment."""
        fragment = read_fragment(message)
        if not fragment.key:
            return source, fragment.text
        # The beginning of a line may be older than what is read.
        began, texts = self._open.setdefault(
            fragment.key, (source, [] if fragment.is_first else [ELLIPSIS])
        )
        texts.append(fragment.text)
        if not fragment.is_last:
            return None
        del self._open[fragment.key]
        return began, "".join(texts)

    def take_unfinished(self) -> Iterator[tuple[Source, str]]:
        """Yield the unfinished lines; what arrives later begins new ones."""
        while self._open:
            began, texts = self._open.pop(next(iter(self._open)))
            yield began, "".join(texts)


def divide(text: str, limit: int) -> list[str]:
    """Divide a text between characters, so that no part has more than `limit` bytes of UTF-8."""
    if len(text) * 4 <= limit:
        return [text]
    content, parts = text.encode(), []
    while len(content) > limit:
        end = whole_characters(content[:limit])
        parts.append(content[:end].decode())
        content = content[end:]
    return [*parts, content.decode()]


def whole_characters(content: bytes) -> int:
    """Return how many bytes are left without an unfinished character of UTF-8 at the end."""
    for back in range(1, min(3, len(content)) + 1):
        byte = content[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # the first byte of a character, which says how many it has
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) - back if length > back else len(content)
    return len(content)
