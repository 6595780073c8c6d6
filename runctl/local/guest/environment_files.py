"""Environment files, parsed like systemd (env-file.c): quotes, escapes, comments."""

import re
from collections.abc import Iterator

_NEWLINES, _SPACES = "\n\r", " \t\n\r"
# What a backslash escapes between double quotes; before anything else, it stays.
_ESCAPED = '"\\`$'
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def parse_environment(text: str) -> dict[str, str]:
    """Return the valid assignments of an environment file; systemd ignores the others, too."""
    return {
        name: value
        for name, value in _assignments(text)
        if _NAME.fullmatch(name) and not _CONTROLS.search(value)
    }


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        if text[at] in _SPACES:
            at += 1
        elif text[at] in "#;":
            at = _end_of_comment(text, at)
        else:
            end = _end_of_line(text, at)
            name, equals, _ = text[at:end].partition("=")
            if equals:
                value, at = _value(text, at + len(name) + 1)
                yield name.rstrip(_SPACES), value
            else:
                at = end


def _end_of_line(text: str, at: int) -> int:
    while at < len(text) and text[at] not in _NEWLINES:
        at += 1
    return at


def _end_of_comment(text: str, at: int) -> int:
    while at < len(text) and text[at] not in _NEWLINES:
        at += 2 if text[at] == "\\" else 1
    return at


def _value(text: str, at: int) -> tuple[str, int]:
    """Return the value that begins at a position, and where it ends."""
    out: list[str] = []
    kept = 0  # up to here, nothing is trailing white space
    is_plain = False  # quotes count only before the first plain character
    while at < len(text) and text[at] not in _NEWLINES:
        char = text[at]
        if not is_plain and char in "'\"":
            at = _quoted(text, at + 1, char, out)
            kept = len(out)
            continue
        if char == "\\":
            is_plain, at = True, at + 1
            if at < len(text) and text[at] not in _NEWLINES:
                out.append(text[at])
            kept = len(out)
        elif is_plain or char not in _SPACES:
            is_plain = True
            out.append(char)
            kept = len(out) if char not in _SPACES else kept
        at += 1
    return "".join(out[:kept]), at


def _quoted(text: str, at: int, quote: str, out: list[str]) -> int:
    """Add the text between quotes; return where the text continues after them."""
    while at < len(text) and text[at] != quote:
        if quote == '"' and text[at] == "\\" and at + 1 < len(text):
            at += 1
            if text[at] in _ESCAPED:
                out.append(text[at])
            elif text[at] not in _NEWLINES:
                out += ("\\", text[at])
        else:
            out.append(text[at])
        at += 1
    return at + 1
