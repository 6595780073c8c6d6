"""The project folder: where it is, which of its files a run needs, and whether they make sense."""

import difflib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from runctl.cli.ignore import Rules, rules_above
from runctl.cli.wording import say_size
from runctl.model.errors import InvalidRequestError, Problem, ProjectError

SETTINGS_FILE = ".runctl.toml"
NEVER_PACKED = (
    ".git", ".hg", ".svn", ".venv", "node_modules", "cdk.out", "__pycache__", "*.pyc", ".DS_Store",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".ipynb_checkpoints", ".tox",
    ".nox", "*.egg-info",
)  # fmt: skip
MOST_FILES = 20_000
LARGEST_PROJECT_BYTES = 256 * 1000 * 1000
_OFFENDERS = 5


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file or symbolic link of the project; `target` is the link's, empty for a file."""

    path: str
    size_bytes: int
    is_executable: bool
    target: str = ""


@dataclass(frozen=True, kw_only=True)
class Project:
    """What will be packed of a folder, in the order of the paths."""

    folder: Path
    members: tuple[Member, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(member.size_bytes for member in self.members)


def find_project(start: Path) -> Path:
    """Return the nearest folder upwards with `.runctl.toml` or `.git`, else `start` itself."""
    start = start.absolute()
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in (SETTINGS_FILE, ".git")):
            return folder
    return start


def scan_project(folder: Path, *, largest_bytes: int = LARGEST_PROJECT_BYTES) -> Project:
    """List what a run needs of a folder; raises ProjectError when that cannot be packed."""
    if not folder.is_dir():
        raise ProjectError(f"--project: {str(folder)!r} is no folder")
    members: list[Member] = []
    for member in _members(folder.absolute()):
        members.append(member)
        if len(members) > MOST_FILES:
            raise _too_large(f"more than {MOST_FILES:,} files", folder, members, by_count=True)
    if not members:
        raise ProjectError(
            f"--project: there is nothing to pack in {folder}: it is empty, or .gitignore leaves "
            "everything out"
        )
    project = Project(folder=folder, members=tuple(sorted(members, key=lambda one: one.path)))
    if project.size_bytes > largest_bytes:
        told = f"{say_size(project.size_bytes)}, more than {say_size(largest_bytes)}"
        raise _too_large(told, folder, members, by_count=False)
    return project


def _members(project: Path) -> Iterator[Member]:
    """Yield what no rule leaves out; ignore files count from the repository's top on, as in git."""
    top = next((one for one in (project, *project.parents) if (one / ".git").exists()), project)
    *outer, inner = rules_above(top, project)
    rules = Rules()
    for folder in outer:
        rules = rules.entering(top, folder)
    for entry in _walk(top, inner, rules):
        path = Path(entry.path).relative_to(project).as_posix()
        if not path.isprintable():
            raise ProjectError(
                f"{path!r}: a name that is not printable UTF-8 text; rename it, or leave it out in "
                ".runctlignore"
            )
        status = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            target = _inner_target(project, path)
            yield Member(path=path, size_bytes=0, is_executable=False, target=target)
        elif stat.S_ISREG(status.st_mode):
            yield Member(
                path=path,
                size_bytes=status.st_size,
                is_executable=bool(status.st_mode & stat.S_IXUSR),
            )


def _walk(top: Path, folder: str, rules: Rules) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(top / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        rules = rules.entering(top, folder)
    except PermissionError as exc:
        raise ProjectError(
            f"{exc.filename}: you may not read it; change its mode or name it in .runctlignore"
        ) from exc
    for entry in found:
        path = f"{folder}/{entry.name}" if folder else entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if any(fnmatch(entry.name, name) for name in NEVER_PACKED):
            continue
        if rules.leaving_out(path, is_folder=is_folder):
            continue
        if not is_folder:
            yield entry
        elif not (top / path / "pyvenv.cfg").exists():  # a virtual environment, whatever its name
            yield from _walk(top, path, rules)


def _inner_target(top: Path, path: str) -> str:
    """Return a symbolic link's target, relative; ProjectError when it leaves the project."""
    link = top / path
    target = link.readlink()
    # Only the link's own folder is resolved: the target may be a link again, checked by itself.
    parent = Path(os.path.realpath(link.parent))
    aim = Path(os.path.normpath(parent / target))
    real_top = Path(os.path.realpath(top))
    if not aim.is_relative_to(real_top):
        raise ProjectError(
            f"{path}: the symbolic link leaves the project (to {target}); copy what it points to, "
            "or leave it out in .runctlignore"
        )
    return Path(os.path.relpath(aim, parent)).as_posix()


def _too_large(told: str, folder: Path, members: list[Member], *, by_count: bool) -> ProjectError:
    weights: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for member in members:
        head, slash, _ = member.path.partition("/")
        weights[head + slash] += 1 if by_count else member.size_bytes
        counts[head + slash] += 1
    offenders = [
        f"{name} ({f'{weight:,} files' if by_count else say_size(weight)})"
        for name, weight in weights.most_common(_OFFENDERS)
    ]
    largest = max(members, key=lambda member: member.size_bytes)
    if not by_count and "/" in largest.path:
        offenders.append(f"the largest file is {largest.path}, {say_size(largest.size_bytes)}")
    return ProjectError(
        f"--project: {folder} has {told}; the largest: {', '.join(offenders)}. Leave out what the "
        "run does not need in .runctlignore; data belongs into S3"
    )


def locate_script(script: str, project: Project, *, here: Path) -> str:
    """Return the script's path inside the project, given from `here` or from the project."""
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
                script, f"is outside the project {project.folder}; name its folder by --project"
            )
        path = found.relative_to(top).as_posix()
        if not any(member.path == path for member in project.members):
            raise _bad_script(
                script, f"is left out of the package; put the line !/{path} into .runctlignore"
            )
        return path
    raise _bad_script(script, f"does not exist in {project.folder}{_nearest(script, project)}")


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
    return f"; there is {', '.join(programs)}" if programs else "; there is no program in it"
