"""Suggested commands, which reach the cloud that the user works on when they are copied.

Messages name commands in backquotes as they are on AWS, also those that functions and agents write,
which do not know where they run. On the local cloud the commands are completed as they are printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# "stopped by `runctl stop`" says what happened, and suggests nothing.
_SUGGESTED = re.compile(r"(?<!by )`runctl (?P<words>[^`\n]+)`")
# They are the same wherever the user works.
_ANYWHERE = {"demo", "docker", "init", "local"}


@dataclass(frozen=True)
class Edit:
    """A part of a text and what stands there instead."""

    start: int
    end: int
    new: str


def edits_for_local(text: str) -> Iterator[Edit]:
    """Yield what makes the suggested commands of a text reach the local cloud."""
    for found in _SUGGESTED.finditer(text):
        words = found["words"].split()
        if words[0] == "deploy":
            yield Edit(*found.span("words"), "local up")
        elif words[0] not in _ANYWHERE and not {"--local", "--help"} & set(words):
            yield Edit(found.start("words"), found.start("words"), "--local ")


def for_local(text: str) -> str:
    """Return a text whose suggested commands reach the local cloud."""
    for edit in reversed(list(edits_for_local(text))):
        text = text[: edit.start] + edit.new + text[edit.end :]
    return text
