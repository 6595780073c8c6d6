"""Requirements files merged into one, with their repositories pinned to known commits."""

import posixpath
from collections.abc import Iterator, Mapping

from runctl.model.references import Tree
from runctl.model.requirement_lines import Kind, Line, local_path, read_lines
from runctl.model.versions import names_repository, pin_repositories

Commits = Mapping[tuple[str, str], str]


def has_repositories(tree: Tree, lists: tuple[str, ...]) -> bool:
    """Whether any of the files names a repository."""
    return any(
        names_repository(line.text) for name in lists for line in read_lines(tree.read(name))
    )


def pin_files(tree: Tree, name: str, commits: Commits, *, top: str) -> tuple[list[str], list[str]]:
    """Return the requirements and the constraints of a file with everything that it includes.

    `top` is the absolute path of the project, for paths that are relative to the file.
    """
    requirements: list[str] = []
    constraints: list[str] = []
    for kind, line in _lines(tree, name, Kind.INCLUDE, commits, top):
        (requirements if kind is Kind.INCLUDE else constraints).append(line)
    return requirements, constraints


def _lines(
    tree: Tree, name: str, kind: Kind, commits: Commits, top: str
) -> Iterator[tuple[Kind, str]]:
    done = 0
    for line in read_lines(tree.read(name)):
        if line.kind in {Kind.INCLUDE, Kind.CONSTRAINT} and _is_relative(line.value):
            nested = posixpath.normpath(posixpath.join(posixpath.dirname(name), line.value))
            inner = Kind.CONSTRAINT if Kind.CONSTRAINT in {kind, line.kind} else Kind.INCLUDE
            yield from _lines(tree, nested, inner, commits, top)
        elif line.number != done:  # a line with several options is one line
            yield kind, pin_repositories(_absolute(tree, name, line, top), commits)
        done = line.number


def _absolute(tree: Tree, name: str, line: Line, top: str) -> str:
    """Return the line as it can stand in another file.

    --find-links is the one path that pip takes relative to its file first. An editable repository
    is installed like any other: pip would clone it to where the cache does not reach, and keep no
    record of its commit.
    """
    if line.kind is Kind.EDITABLE and names_repository(line.value):
        return line.value
    path = local_path(line.value) if line.kind is Kind.FIND_LINKS else None
    if path and _is_relative(path):
        nearby = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        if tree.is_folder(nearby) or tree.is_file(nearby):
            return f"--find-links {posixpath.join(top, nearby)}"
    return line.text


def _is_relative(path: str) -> bool:
    return "://" not in path and not path.startswith("/")
