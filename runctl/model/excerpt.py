"""Excerpts of a program's output: the end explains how it ended, so the beginning is cut."""

import re

from runctl.model.printable import printable

# The length of a failure's reason in characters, of an attempt, of a run and in a message.
MAX_REASON = 1000
# The words before the first colon, such as `exit code 1`, summarize the rest. They stay.
MAX_SUMMARY = 200
ELLIPSIS = "…"


def last_part(text: str, limit: int) -> str:
    """Return the end of `text`, at most `limit` characters, cut where a line or a word begins.

    An ellipsis stands for what is left out. A cut inside a word is the last resort.
    """
    if len(text) <= limit:
        return text
    room = limit - len(ELLIPSIS) - 1
    if room <= 0:
        return text[-limit:] if limit > 0 else ""
    # One character more: the kept part may begin right behind a boundary.
    kept = text[-room - 1 :]
    # A cut at a boundary must leave at least half of what fits.
    half = len(kept) // 2
    line = kept.find("\n", 0, half)
    if line >= 0:
        return f"{ELLIPSIS}\n{kept[line + 1 :]}"
    word = re.search(r"\s", kept[:half])
    if word is not None:
        return f"{ELLIPSIS} {kept[word.end() :]}"
    return f"{ELLIPSIS}{text[-room - 1 :]}"


def shorten_reason(text: str, limit: int = MAX_REASON) -> str:
    """Return a reason of at most `limit` characters: its summary, and the end of what follows."""
    if len(text) <= limit:
        return text
    summary, colon, rest = text.partition(": ")
    if not colon or "\n" in summary or len(summary) > min(MAX_SUMMARY, limit // 2):
        return last_part(text, limit)
    return f"{summary}: {last_part(rest, limit - len(summary) - 2)}"


def last_lines(output: str, *, most: int, limit: int = MAX_REASON) -> str:
    """Return the last `most` lines of a program's output as a terminal would leave them.

    Of a progress bar that is its last state. Colours and blank lines are left out.
    """
    lines = [_as_displayed(line) for line in output.split("\n")]
    return last_part("\n".join([line for line in lines if line.strip()][-most:]), limit)


def _as_displayed(line: str) -> str:
    states = [printable(state) for state in line.split("\r")]
    return next((state.rstrip() for state in reversed(states) if state.strip()), "")
