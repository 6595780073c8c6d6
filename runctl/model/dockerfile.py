"""Dockerfiles, read as far as a run has to know them before a build.

Only instructions that name stages, base images and commands are understood; the engine judges the
rest.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SCRATCH = "scratch"
_DIRECTIVE = re.compile(r"#\s*(\w+)\s*=\s*(\S+)\s*")
_HEREDOC = re.compile(r"<<(?P<dash>-?)(?P<quote>[\"']?)(?P<word>[A-Za-z_]\w*)(?P=quote)")
_FROM = re.compile(
    r"(?:--\S+\s+)*(?P<base>\S+)(?:\s+AS\s+(?P<name>\S+))?", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class BuildStage:
    """A stage of a build: its base, which may be an earlier stage, and its own commands.

    `command` and `entrypoint` say whether the stage sets one (True), clears it (False), or leaves
    that of its base (None).
    """

    base: str
    name: str = ""
    command: bool | None = None
    entrypoint: bool | None = None


@dataclass(frozen=True)
class Dockerfile:
    """The stages of a Dockerfile in their order."""

    stages: tuple[BuildStage, ...]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages that have one."""
        return tuple(stage.name for stage in self.stages if stage.name)

    @property
    def base_images(self) -> tuple[str, ...]:
        """The images that stages begin with, as written, each once."""
        found: dict[str, None] = {}
        for number, stage in enumerate(self.stages):
            if self._earlier(stage.base, number) is None and stage.base != SCRATCH:
                found[stage.base] = None
        return tuple(found)

    def index_of(self, target: str) -> int | None:
        """Return the number of the stage to build, the last without a target; None if missing."""
        if not target:
            return len(self.stages) - 1
        for number, stage in enumerate(self.stages):
            if stage.name.lower() == target.lower():
                return number
        if target.isascii() and target.isdecimal() and int(target) < len(self.stages):
            return int(target)
        return None

    def has_command(self, target: str = "") -> bool | None:
        """Whether the image will have a command; None if its base image decides that.

        An entry point clears the command of the base image.
        """
        number = self.index_of(target)
        command: bool | None = None
        entrypoint: bool | None = None
        while number is not None:
            stage = self.stages[number]
            if command is None and entrypoint is None:
                command = stage.command
            entrypoint = stage.entrypoint if entrypoint is None else entrypoint
            if command or entrypoint:
                return True
            if stage.base == SCRATCH:
                return False
            number = self._earlier(stage.base, number)
        return None

    def _earlier(self, name: str, before: int) -> int | None:
        for number in reversed(range(before)):
            if self.stages[number].name and self.stages[number].name.lower() == name.lower():
                return number
        return None


def parse_dockerfile(text: str) -> Dockerfile:
    """Read a Dockerfile; raises ValueError, with the remedy, if it has no stage."""
    stages: list[BuildStage] = []
    for keyword, rest in _instructions(text):
        if keyword == "FROM" and (found := _FROM.fullmatch(rest)):
            stages.append(BuildStage(base=found["base"], name=found["name"] or ""))
        elif keyword in {"CMD", "ENTRYPOINT"} and stages:
            stages[-1] = _with_command(stages[-1], keyword, is_set=_is_set(rest))
    if not stages:
        raise ValueError("it has no FROM instruction; begin it with FROM and a base image")
    return Dockerfile(tuple(stages))


def _with_command(stage: BuildStage, keyword: str, *, is_set: bool) -> BuildStage:
    is_command = keyword == "CMD"
    return BuildStage(
        base=stage.base,
        name=stage.name,
        command=is_set if is_command else stage.command,
        entrypoint=stage.entrypoint if is_command else is_set,
    )


def _is_set(rest: str) -> bool:
    """Whether a command is not the empty list, which clears that of the base."""
    if not rest.startswith("["):
        return bool(rest.strip())
    try:
        words: object = json.loads(rest)
    except ValueError:
        return True  # the engine reads it as a shell command
    return words != []


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield keyword and arguments of each instruction, its continued lines joined."""
    lines = text.removeprefix("\ufeff").splitlines()
    escape = _escape_character(lines)
    at = 0
    while at < len(lines):
        logical, at = _logical_line(lines, at, escape)
        at = _after_heredocs(logical, lines, at)
        keyword, _, rest = logical.strip().partition(" ")
        if keyword and not keyword.startswith("#"):
            yield keyword.upper(), rest.strip()


def _escape_character(lines: Sequence[str]) -> str:
    for line in lines:
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None:
            break  # directives precede everything else
        if found[1].lower() == "escape":
            return found[2]
    return "\\"


def _logical_line(lines: Sequence[str], at: int, escape: str) -> tuple[str, int]:
    parts: list[str] = []
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if line.startswith("#") or (parts and not line):
            if parts:
                continue  # comments and empty lines inside an instruction are skipped
            return "", at
        if not line.endswith(escape):
            parts.append(line)
            break
        parts.append(line[: -len(escape)])
    return " ".join(" ".join(parts).split("\t")), at


def _after_heredocs(logical: str, lines: Sequence[str], at: int) -> int:
    """Return the line after the here-documents that an instruction begins."""
    keyword = logical.partition(" ")[0].upper()
    if keyword not in {"RUN", "COPY", "ADD"}:
        return at
    for found in _HEREDOC.finditer(logical):
        while at < len(lines):
            line = lines[at].lstrip("\t") if found["dash"] else lines[at]
            at += 1
            if line == found["word"]:
                break
    return at
