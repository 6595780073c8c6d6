"""The lines of a requirements file, read as pip reads them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote, urlsplit

_COMMENT = re.compile(r"(^|\s+)#.*$")
_EXTRAS = re.compile(r"\[[^\]]*\]$")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_VCS = ("git+", "hg+", "svn+", "bzr+")
# The name and extras before the `@` of a direct reference (PEP 508).
_DIRECT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^\]]*\])?)\s*@\s*(?P<url>\S.*)")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


class Kind(str, Enum):
    """The kinds of lines."""

    REQUIREMENT = "requirement"
    EDITABLE = "editable"
    INCLUDE = "include"
    CONSTRAINT = "constraint"
    FIND_LINKS = "find-links"
    INDEX = "index"
    OPTION = "option"


_OPTIONS = {
    "-r": Kind.INCLUDE,
    "--requirement": Kind.INCLUDE,
    "-c": Kind.CONSTRAINT,
    "--constraint": Kind.CONSTRAINT,
    "-e": Kind.EDITABLE,
    "--editable": Kind.EDITABLE,
    "-f": Kind.FIND_LINKS,
    "--find-links": Kind.FIND_LINKS,
    "-i": Kind.INDEX,
    "--index-url": Kind.INDEX,
    "--pypi-url": Kind.INDEX,
    "--extra-index-url": Kind.INDEX,
}


@dataclass(frozen=True)
class Line:
    """A requirement or an option of a line; `number` is that of its first physical line."""

    number: int
    kind: Kind
    value: str
    text: str


def read_lines(text: str) -> Iterator[Line]:
    """Yield the requirements and options of a requirements file in order."""
    for number, line in _logical_lines(text):
        if not line.startswith("-"):
            yield Line(number, Kind.REQUIREMENT, _without_options(line), line)
            continue
        try:
            words = shlex.split(line)
        except ValueError:  # an open quote, of which pip will complain
            words = line.split()
        found = False
        for kind, value in _option_values(words):
            found = True
            yield Line(number, kind, value, line)
        if not found:
            yield Line(number, Kind.OPTION, "", line)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        is_comment = bool(re.match(r"\s*#", line))
        pending, first = pending + (" " + line if is_comment else line), first or number
        if line.endswith("\\") and not is_comment:
            pending = pending.rstrip("\\")
            continue
        if whole := _COMMENT.sub("", pending).strip():
            yield first, whole
        pending, first = "", 0
    if whole := _COMMENT.sub("", pending).strip():
        yield first, whole


def _option_values(words: list[str]) -> Iterator[tuple[Kind, str]]:
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _OPTIONS:
            yield _OPTIONS[name], value if equals else next(rest, "")
        elif word[:2] in _OPTIONS and not word.startswith("--"):
            yield _OPTIONS[word[:2]], word[2:]


def _without_options(line: str) -> str:
    """Return a requirement without the options that pip allows behind it, such as --hash."""
    kept: list[str] = []
    for word in line.split(" "):
        if word.startswith("-"):
            break
        kept.append(word)
    return " ".join(kept).strip()


@dataclass(frozen=True)
class Target:
    """The place of a requirement: a path (as written), or a URL that is not a file's."""

    path: str = ""
    url: str = ""

    @property
    def is_moving(self) -> bool:
        """Whether the same URL may give something else tomorrow."""
        if self.url.startswith(_VCS):
            _, _, revision = urlsplit(self.url).path.rpartition("@")
            return not _COMMIT.fullmatch(revision)
        # A wheel's name holds its version; anything else may be the archive of a branch.
        names_version = urlsplit(self.url).path.endswith(".whl")
        return bool(self.url) and not names_version and "sha256=" not in self.url


def target_of(requirement: str) -> Target:
    """Return where a requirement is; an empty target for one that is looked up by its name."""
    value = requirement.strip()
    if match := _DIRECT.fullmatch(value):
        value = match["url"]
    if "://" in value or re.match(r"[a-z0-9+]+:", value):
        value = re.split(r"\s;|;\s", value, maxsplit=1)[0].strip()
        if not value.startswith("file:"):
            return Target(url=value)
        return Target(path=_path_of_url(value))
    path = _EXTRAS.sub("", value.partition(";")[0].strip()).strip()
    looks_like_path = "/" in path or path.startswith(".")
    if looks_like_path or path.lower().endswith(_ARCHIVES):
        return Target(path=path)
    return Target()


def _path_of_url(url: str) -> str:
    rest = url.removeprefix("file:").partition("#")[0]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path if host in {"", "localhost"} else f"//{host}/{path}"
    return _EXTRAS.sub("", unquote(rest))


def local_path(value: str) -> str | None:
    """Return the path that --find-links or an index names, None for a URL."""
    if value.startswith("file:"):
        return _path_of_url(value)
    return None if "://" in value else value
