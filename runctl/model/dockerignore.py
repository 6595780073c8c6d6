"""The rules of a `.dockerignore` file, as the engine applies them to a build's context.

They differ from those of `.gitignore`: every pattern is relative to the context's root, a name
alone matches at the root only, and `!` includes a file again although its folder is excluded.
"""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

DOCKERIGNORE = ".dockerignore"


@dataclass(frozen=True)
class IgnorePattern:
    """A line of the file; `includes` if it begins with an exclamation mark."""

    expression: re.Pattern[str]
    includes: bool


def ignore_file_of(dockerfile: str) -> str:
    """Return the path of the file that takes precedence for one Dockerfile."""
    return f"{dockerfile}{DOCKERIGNORE}"


def parse_dockerignore(text: str) -> tuple[IgnorePattern, ...]:
    """Read the patterns; raises ValueError for one that is malformed."""
    patterns = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#") or not (pattern := line.strip()):
            continue
        includes = pattern.startswith("!")
        if includes and not (pattern := pattern[1:].strip()):
            raise ValueError("'!' without a pattern")
        pattern = posixpath.normpath(pattern)
        pattern = pattern.lstrip("/") or "."
        patterns.append(IgnorePattern(_translate(pattern), includes))
    return tuple(patterns)


def is_ignored(path: str, patterns: Sequence[IgnorePattern]) -> bool:
    """Whether the build does not see a file; a pattern also matches by any folder above it."""
    parts = path.split("/")
    candidates = [path, *("/".join(parts[:count]) for count in range(1, len(parts)))]
    ignored = False
    for pattern in patterns:
        if pattern.includes is ignored and any(map(pattern.expression.fullmatch, candidates)):
            ignored = not pattern.includes
    return ignored


def _translate(pattern: str) -> re.Pattern[str]:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            out.append(".*" if at >= len(pattern) else "(?:.*/)?")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = _end_of_class(pattern, at)
            out.append(f"[{pattern[at:end]}]".replace("\\", "\\\\"))
            at = end + 1
        elif char == "\\":
            if at == len(pattern):
                raise ValueError(f"{pattern!r} ends in a backslash")
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as exc:
        raise ValueError(f"{pattern!r} is not a valid pattern: {exc}") from exc


def _end_of_class(pattern: str, start: int) -> int:
    end = pattern.find("]", start + 1)
    if end < 0:
        raise ValueError(f"{pattern!r} has no end of '['")
    return end
