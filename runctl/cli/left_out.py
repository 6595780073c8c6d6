"""What a package leaves out, by ignore rules and by name, as far as a run may miss it."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runctl.cli.ignore import RUNCTL_IGNORE, Rules
from runctl.cli.project import LeftOut, Project, is_never_packed
from runctl.cli.project_folder import repository_top
from runctl.cli.secret_names import BY_NAME
from runctl.cli.wording import say_size
from runctl.model.left_out import Omission, write_note

if TYPE_CHECKING:
    from runctl.cli.output import Output

# What programs, editors and builds leave, and what nobody wants on another machine.
CLUTTER = (
    ".*cache*", "*.py[cod]", "*.so", "*.o", "*.obj", "*.class", "*.egg", ".eggs", "build", "dist",
    "sdist", "target", ".tox", ".nox", ".idea", ".vscode", ".spyder*", ".project", ".settings",
    "*.sw[op]", "*~", "Thumbs.db", "htmlcov", ".coverage*", "coverage*", "*.log", "logs", "log",
    "wandb", "mlruns", "lightning_logs", "tensorboard", "site", ".terraform", ".aws-sam", ".dvc",
    ".git*", "core", "nohup.out", "*.pid", "*.tmp", "tmp", "instance", ".Python", ".python-version",
)  # fmt: skip
MOST_COUNTED = 2_000
MOST_IN_NOTE = 100
MOST_SHOWN = 5
_MOST_TEXT = 1_000_000
_MOST_TEXTS = 20
_TEXTS = (".py", ".sh", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini")
_FILE = re.compile(rf"[\w./-]+(?:{'|'.join(map(re.escape, _TEXTS))})\b")
_TOGETHER = 4  # so many by one rule in one folder are shown as a pattern


@dataclass(frozen=True, kw_only=True)
class Group:
    """What one rule leaves out of one folder. `is_cut`: there is more than was counted."""

    path: str
    by: str
    files: int
    size_bytes: int
    is_cut: bool
    remedy: tuple[str, ...]
    is_clutter: bool

    @property
    def ignore_file(self) -> str:
        """The ignore file, without the line."""
        return self.by.rpartition(":")[0] or self.by

    @property
    def may_hold_secrets(self) -> bool:
        """Whether it is left out because of its name."""
        return self.by == BY_NAME

    def __str__(self) -> str:
        lines = " and ".join(f"`{line}`" for line in self.remedy)
        count = f"{self.files:,} file{'s' if self.files != 1 else ''}"
        more = "more than " if self.is_cut else ""
        return (
            f"{self.path} ({more}{count}, {say_size(self.size_bytes)}); bring it with {lines} in "
            ".runctlignore"
        )

    def as_document(self) -> dict[str, Any]:
        """Return the form that --json prints."""
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
    """Group what was left out, clutter last; folders are looked into only so far."""
    together: dict[tuple[str, str, bool], list[LeftOut]] = {}
    for one in project.left_out:
        is_folder = one.path.endswith("/")
        parent = posixpath.dirname(one.path.rstrip("/"))
        together.setdefault((parent, one.by, is_folder), []).append(one)
    budget = _Budget()
    found: list[Group] = []
    for (parent, by, is_folder), members in together.items():
        # A pattern for several files would bring secrets that nobody asked for.
        if len(members) < _TOGETHER or by == BY_NAME:
            found += [_group(project, one.path, by, [one.path], budget) for one in members]
        else:
            ending = "/" if is_folder else _common_ending([one.path for one in members])
            pattern = posixpath.join(parent, f"*{ending}")
            found.append(_group(project, pattern, by, [one.path for one in members], budget))
    return sorted(found, key=lambda group: (group.is_clutter, group.path))


def _common_ending(paths: Sequence[str]) -> str:
    endings = {posixpath.splitext(path)[1] for path in paths}
    return endings.pop() if len(endings) == 1 else ""


class _Budget:
    """How many entries may still be looked at, in all folders together."""

    def __init__(self) -> None:
        self.left = 5 * MOST_COUNTED


def _group(project: Project, path: str, by: str, paths: list[str], budget: _Budget) -> Group:
    files = size = 0
    is_cut = False
    samples: list[tuple[str, bool]] = []
    for one in paths:
        for child, entry_size, is_folder in _inside(project.folder, one):
            budget.left -= 1
            if files >= MOST_COUNTED or budget.left <= 0:
                is_cut = True
                break
            if len(samples) < MOST_SHOWN and child != one:
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
    """Yield (path, bytes, is a folder) of a file, or of everything below a folder."""
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
            continue  # it may not be read, or is gone: then nobody packs it either


def _remedy(project: Project, path: str, samples: list[tuple[str, bool]]) -> tuple[str, ...]:
    """Return the lines for .runctlignore that bring a path, with its inside.

    The inside needs a line of its own where rules such as `data/*` speak of it too.
    """
    lines = (f"!{_escaped(path)}",)
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
            return (*lines, f"!{_escaped(path)}**")
    return lines


def _escaped(path: str) -> str:
    pattern = path if "*" in path else re.sub(r"([\\*?\[])", r"\\\1", path)
    return f"\\{pattern}" if pattern.startswith(("#", "!")) else pattern


def note_of(project: Project) -> str:
    """Return the list that travels with the package, to explain a failure by it."""
    groups = groups_of(project)[:MOST_IN_NOTE]
    return write_note(
        Omission(path=one.path, by=one.ignore_file, remedy=one.remedy) for one in groups
    )


def named_by(group: Group, text: str) -> str:
    """Return the path of what was left out that a text names, empty if it names none."""
    if "*" in group.path:
        folder = posixpath.dirname(group.path.rstrip("/"))
        ending = group.path.rpartition("*")[2].rstrip("/")
        inside = rf"{re.escape(folder)}/" if folder else ""
        expression = rf"{inside}[^\s\"'/]*{re.escape(ending)}"
        if not (inside or ending):
            return ""
    else:
        own = re.escape(group.path.rstrip("/"))
        expression = rf"{own}/[^\s\"']*|{own}" if group.path.endswith("/") else own
    quoted = re.compile(rf"(?<=[\"'`])(?:\./)?({expression})/?(?=[\"'`])")
    with_slash = re.compile(rf"(?<![\w./-])(?:\./)?({expression})(?![\w.-])")
    for found in (*quoted.finditer(text), *with_slash.finditer(text)):
        # A bare word such as `data` is no path unless it is quoted.
        if "/" in found[1] or "." in found[1] or found.re is quoted:
            return found[1]
    return ""


def report_left_out(
    project: Project, script: str, args: Sequence[str], output: "Output"
) -> list[dict[str, Any]]:
    """Tell what the run may miss, louder what its program names; return it for --json."""
    texts = _texts(project, script, args)
    groups = [one for one in groups_of(project) if not one.is_clutter]
    documents = []
    quiet: list[Group] = []
    secrets: list[Group] = []
    for one in groups:
        found = ((who, named_by(one, text)) for who, text in texts)
        who, named = next((pair for pair in found if pair[1]), ("", ""))
        documents.append({**one.as_document(), "named": named})
        if named:
            by = (
                f"is left out by {one.by}"
                if one.may_hold_secrets
                else f"{one.ignore_file} leaves out"
            )
            output.tell(f"warning: {who} names {named}, which {by}: {one}", style="bold yellow")
        elif one.may_hold_secrets:
            secrets.append(one)
        elif not one.ignore_file.endswith(RUNCTL_IGNORE):  # that file is meant for us
            quiet.append(one)
    if secrets:
        output.tell(_secrets_text(secrets), style="yellow")
    for one in quiet[:MOST_SHOWN]:
        output.tell(f"left out by {one.ignore_file}: {one}", style="yellow")
    if len(quiet) > MOST_SHOWN:
        output.tell(
            f"left out too: {len(quiet) - MOST_SHOWN} more; see left_out of --dry-run --json",
            style="yellow",
        )
    return documents[:MOST_IN_NOTE]


def _secrets_text(groups: Sequence[Group]) -> str:
    names = [one.path for one in groups[:MOST_SHOWN]]
    more = f" and {len(groups) - MOST_SHOWN} more" if len(groups) > MOST_SHOWN else ""
    return (
        f"left out because of names that hold secrets: {', '.join(names)}{more}; bring one with a "
        f"line such as `{groups[0].remedy[0]}` in {RUNCTL_IGNORE}"
    )


def _texts(project: Project, script: str, args: Sequence[str]) -> list[tuple[str, str]]:
    """Return what may name files: the command line, its programs and what these name in turn."""
    # In quotes, an argument counts as a path though it is a bare word.
    values = [word.partition("=")[2] if word.startswith("-") else word for word in args]
    texts = [("the command line", "\n".join(f"'{value}'" for value in values))]
    packed = {one.path for one in project.members if not (one.is_folder or one.target)}
    waiting = [posixpath.normpath(name) for name in (script, *args) if name]
    seen: set[str] = set()
    while waiting and len(seen) < _MOST_TEXTS:
        name = waiting.pop(0)
        if name in seen or name not in packed or not name.endswith(_TEXTS):
            continue
        seen.add(name)
        with (project.folder / name).open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(_MOST_TEXT)
        texts.append((name, text))
        waiting += [posixpath.normpath(word) for word in _FILE.findall(text)]
    return texts


def explain_missing(project: Project, path: str) -> str:
    """Say why a path that is needed is not in the package."""
    if not os.path.lexists(project.folder / path):
        return f"{path} does not exist in the project"
    for one in project.left_out:
        whole = one.path.rstrip("/")
        if path == whole or path.startswith(f"{whole}/") or whole.startswith(f"{path}/"):
            return (
                f"{path} is left out of the package by {one.by}; bring it with "
                f"`!{_escaped(one.path)}` in .runctlignore"
            )
    return f"{path} is not in the package; see which files are, by --dry-run"
