"""The rules of `.gitignore` and `.runctlignore` files, with git's semantics."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runctl.cli.project.folder import read_regular_file

RUNCTL_IGNORE = ".runctlignore"
IGNORE_FILES = (".gitignore", RUNCTL_IGNORE)
_MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Rule:
    """A line of an ignore file; `source` is file:line, for messages.

    `is_broad`: its last part consists of wildcards, so it names nothing in particular.
    """

    pattern: re.Pattern[str]
    is_negated: bool
    only_folders: bool
    by_name: bool
    source: str
    is_broad: bool = False

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Whether the rule applies to a path, given relative to the rule's own folder."""
        if self.only_folders and not is_folder:
            return False
        subject = path.rpartition("/")[2] if self.by_name else path
        return self.pattern.fullmatch(subject) is not None


@dataclass(frozen=True)
class RuleFile:
    """The rules of one ignore file; `folder` is where it lies, relative to the top."""

    folder: str
    rules: tuple[Rule, ...]

    def verdict(self, path: str, *, is_folder: bool, with_broad: bool = True) -> Rule | None:
        """Return the rule that decides about a path below the folder: the last match."""
        relative = path[len(self.folder) + 1 :] if self.folder else path
        for rule in reversed(self.rules):
            if (with_broad or not rule.is_broad) and rule.matches(relative, is_folder=is_folder):
                return rule
        return None


@dataclass(frozen=True)
class Rules:
    """The ignore files that apply in a folder, the outermost first, for each of the two names.

    An excluded parent is never entered, so a verdict concerns one path component only.
    """

    files: tuple[tuple[RuleFile, ...], ...] = ((), ())

    def entering(self, top: Path, folder: str) -> "Rules":
        """Return the rules inside `folder`, including those of its own ignore files."""
        read = (read_rules(top, folder, name) for name in IGNORE_FILES)
        return Rules(
            tuple(
                (*outer, found) if found.rules else outer
                for outer, found in zip(self.files, read, strict=True)
            )
        )

    def leaving_out(self, path: str, *, is_folder: bool) -> Rule | None:
        """Return the rule that excludes a path, or None; `.runctlignore` takes precedence."""
        for chain in reversed(self.files):
            for file in reversed(chain):
                if rule := file.verdict(path, is_folder=is_folder):
                    return None if rule.is_negated else rule
        return None

    def includes_by_name(self, path: str, *, is_folder: bool) -> bool:
        """Whether `.runctlignore` includes a path by a rule that contains its name.

        A broad rule such as `!src/**` must not include a secret by accident.
        """
        for file in reversed(self.files[-1]):
            rule = file.verdict(path, is_folder=is_folder, with_broad=False)
            if rule is not None:
                return rule.is_negated
        return False


def read_rules(top: Path, folder: str, name: str) -> RuleFile:
    """Read one ignore file; a missing file has no rules."""
    try:
        content = read_regular_file(top / folder / name, most=_MAX_BYTES)
        text = content.decode("utf-8-sig", errors="surrogateescape")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return RuleFile(folder, ())
    shown = str(PurePosixPath(folder) / name)
    rules = (
        parse_rule(line.removesuffix("\r"), source=f"{shown}:{number}")
        for number, line in enumerate(text.split("\n"), start=1)
    )
    return RuleFile(folder, tuple(rule for rule in rules if rule is not None))


def parse_rule(line: str, *, source: str = "") -> Rule | None:
    """Parse one line; return None for a comment, an empty line, or a pattern without matches."""
    if line.startswith("#"):
        return None
    text = _without_trailing_spaces(line)
    is_negated = text.startswith("!")
    text = text[is_negated:]
    only_folders = text.endswith("/")
    text = text[: len(text) - only_folders]
    by_name = "/" not in text
    expression = _translate(text.removeprefix("/"))
    if not text or expression is None:
        return None
    is_broad = not text.rpartition("/")[2].strip("*?")
    return Rule(
        re.compile(expression, re.DOTALL), is_negated, only_folders, by_name, source, is_broad
    )


def _without_trailing_spaces(line: str) -> str:
    kept = line.rstrip(" ")
    backslashes = len(kept) - len(kept.rstrip("\\"))
    # An unescaped backslash keeps the space that follows it.
    return kept + " " if backslashes % 2 and len(kept) < len(line) else kept


def _translate(pattern: str) -> str | None:
    """Return the regular expression for a wildmatch pattern, or None if it is malformed."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            stars = len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            before, after = pattern[:at], pattern[at + stars :]
            at += stars
            # git compares the part before the first wildcard literally, then matches the rest.
            after_slash = not set("*?[\\") & set(before) or before.endswith("/")
            if stars > 1 and after_slash and after.startswith("/"):
                out.append("(?:.*/)?")
                at += 1
            else:
                out.append(".*" if stars > 1 and after_slash and not after else "[^/]*")
        elif char == "?":
            out.append("[^/]")
            at += 1
        elif char == "[":
            bracket = _bracket(pattern, at)
            if bracket is None:
                return None
            expression, at = bracket
            out.append(expression)
        elif char == "\\":
            if at + 1 == len(pattern):
                return None
            out.append(re.escape(pattern[at + 1]))
            at += 2
        else:
            out.append(re.escape(char))
            at += 1
    return "".join(out)


_CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": " \\t", "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~",
    "punct": "!-/:-@\\[-`{-~", "space": " \\t-\\r", "upper": "A-Z", "xdigit": "0-9a-fA-F",
}  # fmt: skip


def _bracket(pattern: str, start: int) -> tuple[str, int] | None:
    """Translate the bracket expression at `start`; return it and the index of its end."""
    at = start + 1
    negated = pattern[at : at + 1] in {"!", "^"}
    at += negated
    items: list[str] = []
    first = True
    while True:
        if at >= len(pattern):
            return None
        if pattern[at] == "]" and not first:
            break
        first = False
        if pattern.startswith("[:", at):
            name, colon, _ = pattern[at + 2 :].partition(":]")
            if not colon or name not in _CLASSES:
                return None
            items.append(_CLASSES[name])
            at += len(name) + 4
            continue
        low, at = _character(pattern, at)
        if low is None:
            return None
        high: str | None = low
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in {"", "]"}:
            high, at = _character(pattern, at + 1)
        if high is None:
            return None
        # In git, a reversed range still contains its first character.
        items.append(f"{re.escape(low)}-{re.escape(max(low, high))}")
    return f"(?!/)[{'^' if negated else ''}{''.join(items)}]", at + 1


def _character(pattern: str, at: int) -> tuple[str | None, int]:
    if pattern[at] == "\\":
        return (pattern[at + 1] if at + 1 < len(pattern) else None), at + 2
    return pattern[at], at + 1


def rules_above(top: Path, project: Path) -> Sequence[str]:
    """Return the folders from `top` down to `project`, both included, relative to `top`."""
    parts = project.relative_to(top).parts
    return ["/".join(parts[:count]) for count in range(len(parts) + 1)]
