"""The scan of a project's folder: the files that a run needs, and the script among them."""

import difflib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from runctl.cli.project.folder import repository_top
from runctl.cli.project.ignore import RUNCTL_IGNORE, Rules, rules_above
from runctl.cli.project.secret_names import BY_NAME, holds_secrets
from runctl.model.errors import InvalidRequestError, Problem, ProjectError
from runctl.model.line_endings import HEAD_BYTES, problem_with_line_endings
from runctl.model.script_kinds import problem_with_script
from runctl.report.wording import format_size

NEVER_PACKED = (
    ".git", ".hg", ".svn", ".venv", "node_modules", "cdk.out", "__pycache__", "*.pyc", ".DS_Store",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".ipynb_checkpoints", ".tox",
    ".nox", "*.egg-info",
)  # fmt: skip
MAX_PROJECT_FILES = 20_000
MAX_PROJECT_BYTES = 256 * 1000 * 1000
MAX_LEFT_OUT = 5_000
_OFFENDERS = 5


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file, symbolic link or empty folder; `target` is a link's target, otherwise empty."""

    path: str
    size_bytes: int = 0
    is_executable: bool = False
    target: str = ""
    is_folder: bool = False


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A path that is left out; a folder's path ends with a slash, and its contents are unread.

    `by` is the ignore rule's file and line, relative to the repository's top, or BY_NAME.
    """

    path: str
    by: str

    @property
    def may_hold_secrets(self) -> bool:
        """Whether it is left out because its name suggests secrets."""
        return self.by == BY_NAME


@dataclass(frozen=True, kw_only=True)
class Project:
    """The members of a folder that will be packed, sorted by path, and those that will not."""

    folder: Path
    members: tuple[Member, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def size_bytes(self) -> int:
        """The total size of all files."""
        return sum(member.size_bytes for member in self.members)


def scan_project(folder: Path, *, largest_bytes: int = MAX_PROJECT_BYTES) -> Project:
    """List the files of a folder that a run needs; raises ProjectError if it cannot be packed."""
    if not folder.is_dir():
        raise ProjectError(f"--project: {str(folder)!r} is not a folder")
    members: list[Member] = []
    scan = _Scan(folder.absolute())
    for member in scan.members():
        members.append(member)
        if len(members) > MAX_PROJECT_FILES:
            raise _too_large(
                f"more than {MAX_PROJECT_FILES:,} files", folder, members, by_count=True
            )
    if all(member.is_folder for member in members):
        raise ProjectError(
            f"--project: nothing to pack in {folder}: it is empty, or .gitignore excludes "
            "everything"
        )
    project = Project(
        folder=folder.absolute(),
        members=tuple(sorted(members, key=lambda member: member.path)),
        left_out=tuple(scan.left_out),
    )
    if project.size_bytes > largest_bytes:
        excess = f"{format_size(project.size_bytes)}, more than {format_size(largest_bytes)}"
        raise _too_large(excess, folder, members, by_count=False)
    return project


class _Scan:
    """Walks a project; ignore files apply from the repository's top downwards, as in git."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._top = repository_top(project)
        self.left_out: list[LeftOut] = []

    def members(self) -> Iterator[Member]:
        """Yield the members that no rule leaves out."""
        *outer, inner = rules_above(self._top, self._project)
        rules = Rules()
        for folder in outer:
            rules = rules.entering(self._top, folder)
        yield from self._walk(inner, rules)

    def _walk(self, folder: str, rules: Rules) -> Iterator[Member]:
        try:
            with os.scandir(self._top / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            rules = rules.entering(self._top, folder)
        except PermissionError as exc:
            raise ProjectError(
                f"{exc.filename}: permission denied; change its mode or exclude it in .runctlignore"
            ) from exc
        kept = [entry for entry in found if not is_never_packed(entry.name)]
        is_empty = bool(kept) or not found  # a folder of caches only counts as a cache
        for entry in kept:
            for member in self._enter(entry, folder, rules):
                is_empty = False
                yield member
        path = self._relative(self._top / folder)
        if is_empty and path != ".":
            yield Member(path=_printable(path), is_folder=True)

    def _enter(self, entry: "os.DirEntry[str]", folder: str, rules: Rules) -> Iterator[Member]:
        path = f"{folder}/{entry.name}" if folder else entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if by := self._left_out_by(path, rules, is_folder=is_folder):
            if len(self.left_out) < MAX_LEFT_OUT or by == BY_NAME:
                shown = self._relative(Path(entry.path)) + "/" * is_folder
                self.left_out.append(LeftOut(path=shown, by=by))
        elif not is_folder:
            yield from self._member(entry)
        elif not (self._top / path / "pyvenv.cfg").exists():  # a virtual environment of any name
            yield from self._walk(path, rules)

    def _left_out_by(self, path: str, rules: Rules, *, is_folder: bool) -> str:
        """Return the rule that leaves a path out, empty if there is none."""
        rule = rules.leaving_out(path, is_folder=is_folder)
        is_ours = rule is not None and RUNCTL_IGNORE in rule.source
        if not is_ours and holds_secrets(self._top, path):
            is_environment = is_folder and (self._top / path / "pyvenv.cfg").exists()
            is_included = rules.includes_by_name(path, is_folder=is_folder)
            return "" if is_included or is_environment else BY_NAME
        return rule.source if rule is not None else ""

    def _member(self, entry: "os.DirEntry[str]") -> Iterator[Member]:
        path = _printable(self._relative(Path(entry.path)))
        status = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            yield Member(path=path, target=_inner_target(self._project, path))
        elif stat.S_ISREG(status.st_mode):
            yield Member(
                path=path,
                size_bytes=status.st_size,
                is_executable=bool(status.st_mode & stat.S_IXUSR),
            )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._project).as_posix()


def is_never_packed(name: str) -> bool:
    """Whether every package leaves out files and folders of this name."""
    return any(fnmatch(name, pattern) for pattern in NEVER_PACKED)


def _printable(path: str) -> str:
    if not path.isprintable():
        raise ProjectError(
            f"{path!r}: its name is not printable UTF-8 text; rename it, or exclude it in "
            ".runctlignore"
        )
    return path


def _inner_target(top: Path, path: str) -> str:
    """Return a symbolic link's relative target; raises ProjectError if it leaves the project."""
    link = top / path
    target = link.readlink()
    # Only the link's own folder is resolved: a target that is a link is checked by itself.
    parent = Path(os.path.realpath(link.parent))
    aim = Path(os.path.normpath(parent / target))
    real_top = Path(os.path.realpath(top))
    if not aim.is_relative_to(real_top):
        raise ProjectError(
            f"{path}: the symbolic link leaves the project (to {target}); copy its target, or "
            "exclude it in .runctlignore"
        )
    return Path(os.path.relpath(aim, parent)).as_posix()


def _too_large(excess: str, folder: Path, members: list[Member], *, by_count: bool) -> ProjectError:
    weights: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for member in members:
        head, slash, _ = member.path.partition("/")
        weights[head + slash] += 1 if by_count else member.size_bytes
        counts[head + slash] += 1
    offenders = [
        f"{name} ({f'{weight:,} files' if by_count else format_size(weight)})"
        for name, weight in weights.most_common(_OFFENDERS)
    ]
    largest = max(members, key=lambda member: member.size_bytes)
    if not by_count and "/" in largest.path:
        offenders.append(f"the largest file is {largest.path}, {format_size(largest.size_bytes)}")
    return ProjectError(
        f"--project: {folder} has {excess}; the largest: {', '.join(offenders)}. Exclude what the "
        "run does not need in .runctlignore; data belongs in S3"
    )


# Programs whose first script belongs to the project.
LAUNCHERS = frozenset(
    {"python", "bash", "sh", "torchrun", "accelerate", "deepspeed", "colossalai", "composer"}
)


def locate_script(script: str, project: Project, *, here: Path) -> str:
    """Return the script's path in the project; `script` is relative to `here` or the project."""
    top = Path(os.path.realpath(project.folder))
    for base in (here, project.folder):
        # The parent is resolved, not the script: a link to a script is packed as a link.
        found = Path(os.path.normpath(base / script))
        found = Path(os.path.realpath(found.parent)) / found.name
        if not found.exists():
            continue
        if found.is_dir():
            raise _bad_script(script, "is a folder; name the program in it")
        if not found.is_relative_to(top):
            raise _bad_script(
                script, f"is outside the project {project.folder}; name its folder with --project"
            )
        path = found.relative_to(top).as_posix()
        if not any(member.path == path for member in project.members):
            raise _bad_script(
                script, f"is left out of the package; add the line !/{path} to .runctlignore"
            )
        with found.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        for problem in (problem_with_line_endings(path, head), problem_with_script(path, head)):
            if problem:
                raise _bad_script(script, problem)
        return path
    problem = f"does not exist in {project.folder}{_nearest(script, project)}"
    if not Path(script).suffix and "/" not in script:
        problem += f". To run a program from elsewhere: `runctl aws train --command {script} …`"
    raise _bad_script(script, problem)


def check_command(command: Sequence[str], project: Project) -> None:
    """Refuse a command that recognizably names a script which the project lacks."""
    if not command or Path(command[0]).name.rstrip(".0123456789") not in LAUNCHERS:
        return
    words = command[1:]
    named = [word for word in words if re.fullmatch(r"[\w./-]*\.(py|sh)", word)]
    if not named or {"-m", "--module", "-c"} & set(words) or named[0].startswith(("-", "/")):
        return
    script = named[0].removeprefix("./")
    if all(member.path != script for member in project.members):
        raise InvalidRequestError(
            (
                Problem(
                    "command",
                    f"{script!r} does not exist in {project.folder}, where the command starts"
                    f"{_nearest(script, project)}",
                ),
            )
        )


def _bad_script(script: str, message: str) -> InvalidRequestError:
    return InvalidRequestError((Problem("script", f"{script!r} {message}"),))


def _nearest(script: str, project: Project) -> str:
    paths = [member.path for member in project.members]
    names = {path.rpartition("/")[2]: path for path in reversed(paths)}
    close = [
        *difflib.get_close_matches(script, paths, n=3),
        *(names[name] for name in difflib.get_close_matches(Path(script).name, names, n=3)),
    ]
    if close:
        return f"; did you mean {' or '.join(dict.fromkeys(close[:3]))}?"
    programs = [path for path in paths if path.endswith((".py", ".sh"))][:_OFFENDERS]
    return f"; it has {', '.join(programs)}" if programs else "; it has no program"
