"""References of a declaration of dependencies to files of the project: lists, wheels, sources."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from runctl.model.errors import Problem
from runctl.model.requirement_lines import (
    VARIABLE,
    Kind,
    Line,
    Target,
    local_path,
    read_lines,
    target_of,
)

BUILD_FILES = ("pyproject.toml", "setup.py")


class Tree(Protocol):
    """The project's files, packed or unpacked; paths are relative to its top folder."""

    def is_file(self, path: str) -> bool:
        """Whether the project has this file."""
        ...

    def is_folder(self, path: str) -> bool:
        """Whether the project has this folder."""
        ...

    def read(self, path: str) -> str:
        """Return a file's text; raises UnicodeDecodeError if it is not UTF-8."""
        ...

    def explain_missing(self, path: str) -> str:
        """Return why there is nothing at a path, and the remedy."""
        ...


@dataclass(frozen=True, kw_only=True)
class References:
    """The files and folders that belong to a declaration, as paths of the project.

    `lists` are the requirements and constraints files that were followed. The whole content of
    them, of `files` and of `folders` matters; of an `editables` folder, only what its build reads.
    pip has to run in `folder`. `is_moving`: something comes from a branch or URL whose content may
    change. `problems` fail on every machine. `foreign` are packages, and `elsewhere` folders of
    packages, with absolute paths: they work only if the machine's image has them.
    """

    folder: str = ""
    lists: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    editables: tuple[str, ...] = ()
    is_moving: bool = False
    problems: tuple[Problem, ...] = ()
    foreign: tuple[Problem, ...] = ()
    elsewhere: tuple[Problem, ...] = ()


def requirements_references(tree: Tree, name: str) -> References:
    """Follow a requirements file of the project and all files that it includes."""
    collected: list[_Found] = []
    problems: list[Problem] = []
    lists: list[str] = []
    _follow(tree, name, collected, lists, problems, seen=())
    own = posixpath.dirname(name)
    # pip takes paths relative to its current folder, which for a file in a subfolder is either.
    folder = min((own, ""), key=lambda base: len(_missing(tree, base, collected)))
    finder = _Finder(tree, folder, problems=problems)
    for reference in collected:
        finder.take(reference.file, reference.line)
    return replace(finder.references(), lists=tuple(dict.fromkeys(lists)))


def listed_references(
    tree: Tree, folder: str, source: str, requirements: Iterable[str]
) -> References:
    """Follow requirements that a TOML document lists; pip runs in the document's folder."""
    finder = _Finder(tree, folder)
    for text in requirements:
        finder.take(source, Line(0, Kind.REQUIREMENT, text, text))
    return finder.references()


def lock_references(tree: Tree, name: str, packages: Any) -> References:
    """Follow the places of the packages in a uv.lock."""
    folder = posixpath.dirname(name)
    finder = _Finder(tree, folder)
    for package in packages if isinstance(packages, list) else ():
        source = package.get("source") if isinstance(package, dict) else None
        for kind, place in source.items() if isinstance(source, dict) else ():
            # The project itself is not installed.
            if kind in {"editable", "directory", "path"} and place != ".":
                way = Kind.EDITABLE if kind == "editable" else Kind.REQUIREMENT
                finder.take_path(name, way, str(place), f"{package.get('name')} at {place!r}")
            elif kind == "registry" and "://" not in str(place):
                finder.take_index(name, name, Line(0, Kind.FIND_LINKS, str(place), str(place)))
    return finder.references()


@dataclass(frozen=True)
class _Found:
    file: str
    line: Line


def _follow(
    tree: Tree,
    name: str,
    found: list[_Found],
    lists: list[str],
    problems: list[Problem],
    *,
    seen: tuple[str, ...],
) -> None:
    """Read a file and what it includes; pip takes those paths relative to the including file."""
    if name in seen:
        problems.append(Problem(name, "includes itself; remove one of the -r lines"))
        return
    lists.append(name)
    try:
        text = tree.read(name)
    except UnicodeDecodeError:
        problems.append(Problem(name, "is not UTF-8 text; save it as UTF-8"))
        return
    for line in read_lines(text):
        if line.kind not in {Kind.INCLUDE, Kind.CONSTRAINT} or "://" in line.value:
            found.append(_Found(name, line))
            continue
        field_name = f"{name}:{line.number}"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), line.value))
        if line.value.startswith(("/", "~")):
            found.append(_Found(name, line))
        elif problem := _outside(path, repr(line.text)):
            problems.append(Problem(field_name, problem))
        elif not tree.is_file(path):
            problems.append(Problem(field_name, f"{line.text!r}: {tree.explain_missing(path)}"))
        else:
            _follow(tree, path, found, lists, problems, seen=(*seen, name))


def _missing(tree: Tree, folder: str, found: Iterable[_Found]) -> list[str]:
    """Return the relative paths that do not exist if pip runs in `folder`."""
    named = (
        path
        for reference in found
        if (path := _path_named(reference.line)) and not path.startswith("/")
    )
    joined = (posixpath.normpath(posixpath.join(folder, path)) for path in named)
    return [path for path in joined if not (tree.is_file(path) or tree.is_folder(path))]


def _path_named(line: Line) -> str:
    if line.kind in {Kind.REQUIREMENT, Kind.EDITABLE}:
        return _target(line).path
    return ""


def _target(line: Line) -> Target:
    target = target_of(line.value)
    if line.kind is Kind.EDITABLE and not target.path and not target.url:
        return Target(path=line.value)  # `-e pkg` needs no slash
    return target


@dataclass
class _Finder:
    """Collects what requirements refer to when pip runs in `folder`."""

    tree: Tree
    folder: str
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    editables: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    foreign: list[Problem] = field(default_factory=list)
    elsewhere: list[Problem] = field(default_factory=list)
    is_moving: bool = False

    def references(self) -> References:
        return References(
            folder=self.folder,
            files=tuple(dict.fromkeys(self.files)),
            folders=tuple(dict.fromkeys(self.folders)),
            editables=tuple(dict.fromkeys(self.editables)),
            is_moving=self.is_moving,
            problems=tuple(self.problems),
            foreign=tuple(self.foreign),
            elsewhere=tuple(self.elsewhere),
        )

    def take(self, file: str, line: Line) -> None:
        where = f"{file}:{line.number}" if line.number else file
        if variable := VARIABLE.search(line.text):
            self._refuse(
                where,
                f"{line.text!r} uses {variable[0]}, which is not set where the dependencies are "
                "installed; write its value, or, if it is the login of an index, give the index's "
                "address with --env PIP_EXTRA_INDEX_URL=secret:NAME",
            )
        elif line.kind in {Kind.FIND_LINKS, Kind.INDEX}:
            self.take_index(where, file, line)
        elif line.kind in {Kind.INCLUDE, Kind.CONSTRAINT}:
            if "://" in line.value:
                self.is_moving = True  # a file on another server
            else:
                self.take_path(where, line.kind, line.value, repr(line.text))
        elif line.kind in {Kind.REQUIREMENT, Kind.EDITABLE}:
            target = _target(line)
            self.is_moving = self.is_moving or target.is_moving
            if target.path:
                self.take_path(where, line.kind, target.path, repr(line.text))

    def take_path(self, where: str, kind: Kind, written: str, text: str) -> None:
        path = self._resolve(self.folder, written)
        if written.startswith(("/", "~")):
            self.foreign.append(
                Problem(
                    where,
                    f"{text} is a path of this machine; copy it into the project and write "
                    f"./{posixpath.basename(path)}",
                )
            )
        elif problem := _outside(path, text):
            self._refuse(where, problem)
        elif self.tree.is_folder(path):
            if not any(self.tree.is_file(posixpath.join(path, name)) for name in BUILD_FILES):
                self._refuse(
                    where, f"{text}: {_shown(path)} has neither pyproject.toml nor setup.py"
                )
            (self.editables if kind is Kind.EDITABLE else self.folders).append(path)
        elif self.tree.is_file(path):
            self.files.append(path)
        else:
            self._refuse(where, f"{text}: {self.tree.explain_missing(path)}")

    def take_index(self, where: str, file: str, line: Line) -> None:
        written = local_path(line.value)
        if written is None:
            return
        if written.startswith("/"):
            self.elsewhere.append(
                Problem(
                    where,
                    f"{line.text!r} is not part of the project; instances have it only if their "
                    "machine image does",
                )
            )
            return
        bases = [self.folder]
        if line.kind is Kind.FIND_LINKS:  # pip first looks for this path next to the file
            bases.insert(0, posixpath.dirname(file))
        paths = [self._resolve(base, written) for base in bases]
        there = [name for name in paths if self.tree.is_folder(name) or self.tree.is_file(name)]
        path = next(iter(there), paths[-1])
        if problem := _outside(path, repr(line.text)):
            self._refuse(where, problem)
        elif self.tree.is_folder(path):
            self.folders.append(path)
        elif self.tree.is_file(path):
            self.files.append(path)
        else:
            self._refuse(where, f"{line.text!r}: {self.tree.explain_missing(path)}")

    def _resolve(self, base: str, written: str) -> str:
        path = posixpath.normpath(posixpath.join(base, written))
        return "" if path == "." else path

    def _refuse(self, where: str, message: str) -> None:
        self.problems.append(Problem(where, message))


def _outside(path: str, text: str) -> str | None:
    if path == ".." or path.startswith("../"):
        return (
            f"{text} is outside the project; copy it into the project, or name a folder above both "
            "by --project"
        )
    return None


def _shown(path: str) -> str:
    return f"{path}/" if path else "the project"
