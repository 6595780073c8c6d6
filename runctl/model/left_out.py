"""The files that a package left out by ignore rules, and failures that result from it."""

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

# The archive's own header holds the list: nothing of it is unpacked into the project.
PAX_KEY = "RUNCTL.left_out"
_MAX_HINT_LENGTH = 160

_SAYS_MISSING = re.compile(
    r"no such file|filenotfound|not found|does ?n[o']t exist|doesn't exist|no module named"
    r"|unable to find|can(?:no|')t (?:open|access|find|stat|read|load)|unable to open"
    r"|could ?n[o']t (?:open|find)|could not (?:open|find)|no files? |failed to open|missing",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'([^'\n]+)'|\"([^\"\n]+)\"|`([^`\n]+)`")
_MODULE = re.compile(r"No module named '?([A-Za-z0-9_.]+)'?")


@dataclass(frozen=True, kw_only=True)
class Omission:
    """A path that was left out: a file, a folder with its slash, or a pattern for several.

    `by` names the ignore file, `remedy` has the lines for .runctlignore that include it.
    """

    path: str
    by: str
    remedy: tuple[str, ...]

    def covers(self, path: str) -> bool:
        """Whether a path, relative to the project or to a folder of it, is what was left out."""
        if "*" in self.path:
            return fnmatchcase(path, self.path.rstrip("/"))
        own = self.path.rstrip("/")
        parts = path.split("/")
        heads = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        whole = {path} if not self.path.endswith("/") else set(heads)
        return any(own == head or own.endswith(f"/{head}") for head in whole)


def write_note(omissions: Iterable[Omission]) -> str:
    """Return the text that travels with a package; empty when nothing was left out."""
    listed = [[omission.path, omission.by, list(omission.remedy)] for omission in omissions]
    return json.dumps(listed, separators=(",", ":")) if listed else ""


def read_note(text: str) -> tuple[Omission, ...]:
    """Read what `write_note` wrote; what cannot be read only costs an explanation."""
    try:
        listed = json.loads(text)
        return tuple(
            Omission(path=str(path), by=str(by), remedy=tuple(map(str, remedy)))
            for path, by, remedy, *_ in listed
        )
    except (ValueError, TypeError, RecursionError):
        return ()


def explain_failure(words: str, omissions: Sequence[Omission], *, project: str) -> str:
    """Explain last words that complain about an omission; empty if they complain about none.

    `project` is the folder that relative paths start from.
    """
    if not omissions:
        return ""
    for path in _missing_paths(words, project):
        for omission in omissions:
            if omission.covers(path):
                return _hint(omission)
    return ""


def _hint(omission: Omission) -> str:
    # Without a colon: the reason's summary ends at its first one.
    summary = f"{omission.path} is left out of the package by {omission.by}"
    lines = " and ".join(f"`{line}`" for line in omission.remedy)
    full = f"{summary}; include it with {lines} in .runctlignore"
    return full if len(full) <= _MAX_HINT_LENGTH else summary[:_MAX_HINT_LENGTH]


def _missing_paths(words: str, project: str) -> Iterator[str]:
    """Yield the paths that a program says are missing, relative to the project, the last first."""
    for line in reversed(words.splitlines()):
        if not _SAYS_MISSING.search(line):
            continue
        for module in _MODULE.findall(line):
            yield from (module.replace(".", "/"), module.replace(".", "/") + ".py")
        quoted = [next(filter(None, groups)) for groups in _QUOTED.findall(line)]
        for word in (*quoted, *re.split(r"\s+|: ", _QUOTED.sub(" ", line))):
            if path := _relative(word.strip(":,;()[]<>"), project):
                yield path


def _relative(word: str, project: str) -> str:
    path = word.removeprefix("file://")
    inside = f"{project.rstrip('/')}/"
    if path.startswith(inside):
        path = path[len(inside) :]
    if not path or path.startswith("/"):
        return ""
    path = posixpath.normpath(path)
    while path.startswith("../"):  # relative to a folder of the project
        path = path[3:]
    return "" if path in {".", ".."} else path
