"""The files that a package leaves out by ignore rules or by name, grouped for messages."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from runctl.cli.project.folder import repository_top
from runctl.cli.project.ignore import Rules
from runctl.cli.project.scan import LeftOut, Project, is_never_packed
from runctl.cli.project.secret_names import BY_NAME
from runctl.model.left_out import Omission, write_note
from runctl.report.wording import format_size

# Files that programs, editors and builds leave behind, which no run needs.
CLUTTER = (
    ".*cache*", "*.py[cod]", "*.so", "*.o", "*.obj", "*.class", "*.egg", ".eggs", "build", "dist",
    "sdist", "target", ".tox", ".nox", ".idea", ".vscode", ".spyder*", ".project", ".settings",
    "*.sw[op]", "*~", "Thumbs.db", "htmlcov", ".coverage*", "coverage*", "*.log", "logs", "log",
    "wandb", "mlruns", "lightning_logs", "tensorboard", "site", ".terraform", ".aws-sam", ".dvc",
    ".git*", "core", "nohup.out", "*.pid", "*.tmp", "tmp", "instance", ".Python", ".python-version",
)  # fmt: skip
MAX_COUNTED = 2_000
MAX_IN_NOTE = 100
MAX_SHOWN = 5
_TOGETHER = 4  # this many by one rule in one folder are shown as a pattern


@dataclass(frozen=True, kw_only=True)
class Group:
    """The files that one rule leaves out of one folder. `is_cut`: not all were counted."""

    path: str
    by: str
    files: int
    size_bytes: int
    is_cut: bool
    remedy: tuple[str, ...]
    is_clutter: bool

    @property
    def ignore_file(self) -> str:
        """The ignore file, without the line number."""
        return self.by.rpartition(":")[0] or self.by

    @property
    def may_hold_secrets(self) -> bool:
        """Whether it is left out because its name suggests secrets."""
        return self.by == BY_NAME

    def __str__(self) -> str:
        lines = " and ".join(f"`{line}`" for line in self.remedy)
        count = f"{self.files:,} file{'s' if self.files != 1 else ''}"
        more = "more than " if self.is_cut else ""
        return (
            f"{self.path} ({more}{count}, {format_size(self.size_bytes)}); include it with {lines} "
            "in .runctlignore"
        )

    def as_document(self) -> dict[str, Any]:
        """Return the document that --json prints."""
        return {
            "path": self.path,
            "by": self.by,
            "files": self.files,
            "size_bytes": self.size_bytes,
            "is_cut": self.is_cut,
            "may_hold_secrets": self.may_hold_secrets,
            "remedy": list(self.remedy),
        }


def groups_of(project: Project) -> list[Group]:
    """Group what was left out, clutter last; only a limited number of entries is counted."""
    together: dict[tuple[str, str, bool], list[LeftOut]] = {}
    for entry in project.left_out:
        is_folder = entry.path.endswith("/")
        parent = posixpath.dirname(entry.path.rstrip("/"))
        together.setdefault((parent, entry.by, is_folder), []).append(entry)
    budget = _Budget()
    found: list[Group] = []
    for (parent, by, is_folder), members in together.items():
        paths = [member.path for member in members]
        # A pattern for several files could include secrets by accident.
        if len(members) < _TOGETHER or by == BY_NAME:
            found += [_group(project, path, by, [path], budget) for path in paths]
        else:
            ending = "/" if is_folder else _common_ending(paths)
            pattern = posixpath.join(parent, f"*{ending}")
            found.append(_group(project, pattern, by, paths, budget))
    return sorted(found, key=lambda group: (group.is_clutter, group.path))


def _common_ending(paths: Sequence[str]) -> str:
    endings = {posixpath.splitext(path)[1] for path in paths}
    return endings.pop() if len(endings) == 1 else ""


class _Budget:
    """The number of entries that may still be counted, in all folders together."""

    def __init__(self) -> None:
        self.left = 5 * MAX_COUNTED


def _group(project: Project, path: str, by: str, paths: list[str], budget: _Budget) -> Group:
    files = size = 0
    is_cut = False
    samples: list[tuple[str, bool]] = []
    for top in paths:
        for child, entry_size, is_folder in _inside(project.folder, top):
            budget.left -= 1
            if files >= MAX_COUNTED or budget.left <= 0:
                is_cut = True
                break
            if len(samples) < MAX_SHOWN and child != top:
                samples.append((child, is_folder))
            files += not is_folder
            size += entry_size
    name = posixpath.basename(path.rstrip("/"))
    is_environment = path.endswith("/") and (project.folder / path / "pyvenv.cfg").exists()
    return Group(
        path=path,
        by=by,
        files=files,
        size_bytes=size,
        is_cut=is_cut,
        remedy=_remedy(project, path, samples),
        is_clutter=by != BY_NAME
        and (is_environment or any(fnmatch(name, pattern) for pattern in CLUTTER)),
    )


def _inside(top: Path, path: str) -> Iterator[tuple[str, int, bool]]:
    """Yield (path, bytes, is_folder) for a file, or for everything below a folder."""
    if not path.endswith("/"):
        try:
            yield path, (top / path).lstat().st_size, False
        except OSError:
            yield path, 0, False
        return
    waiting = [path.rstrip("/")]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(top / folder) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    size = 0 if is_folder else entry.stat(follow_symlinks=False).st_size
                    yield f"{folder}/{entry.name}", size, is_folder
                    if is_folder:
                        waiting.append(f"{folder}/{entry.name}")
        except OSError:
            continue  # unreadable or gone, so it cannot be packed either


def _remedy(project: Project, path: str, samples: list[tuple[str, bool]]) -> tuple[str, ...]:
    """Return the lines for .runctlignore that include a path and its contents.

    The contents need a line of their own where a rule such as `data/*` applies to them as well.
    """
    lines = (f"!{escaped(path)}",)
    if not path.endswith("/") or "*" in path:
        return lines
    top = repository_top(project.folder)
    inner = project.folder.relative_to(top).as_posix()
    rules = Rules()
    base = posixpath.normpath(posixpath.join(inner, path))
    parts = [] if base == "." else base.split("/")
    for count in range(len(parts) + 1):
        rules = rules.entering(top, "/".join(parts[:count]))
    for child, is_folder in samples:
        full = posixpath.normpath(posixpath.join(inner, child))
        depth_one = posixpath.dirname(child) == path.rstrip("/")
        if (
            depth_one
            and not is_never_packed(posixpath.basename(child))
            and (rules.leaving_out(full, is_folder=is_folder))
        ):
            return (*lines, f"!{escaped(path)}**")
    return lines


def escaped(path: str) -> str:
    """Return a path as a pattern that matches only this path."""
    pattern = path if "*" in path else re.sub(r"([\\*?\[])", r"\\\1", path)
    return f"\\{pattern}" if pattern.startswith(("#", "!")) else pattern


def note_of(project: Project) -> str:
    """Return the list that the package contains, by which the agent explains missing files."""
    groups = groups_of(project)[:MAX_IN_NOTE]
    return write_note(
        Omission(path=group.path, by=group.ignore_file, remedy=group.remedy) for group in groups
    )
