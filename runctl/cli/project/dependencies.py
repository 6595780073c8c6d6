"""The check of a project's dependencies, whose mistakes would otherwise show after a launch."""

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from runctl.cli.project.conda import find_conda_environment
from runctl.cli.project.left_out_report import explain_missing
from runctl.cli.project.plain_credentials import find_plain_credentials
from runctl.cli.project.scan import Project
from runctl.model.declaration import Declaration, find_declaration
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.python_versions import allows_any, is_specifier
from runctl.model.requirement_lines import Kind, read_lines, target_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def check_dependencies(
    project: Project, script: str, *, not_secrets: Collection[str] = ()
) -> tuple[Problem, ...]:
    """Check what the trainer's environment will be built from; return warnings.

    `not_secrets` names files whose addresses may look like secrets. Raises InvalidRequestError if
    it cannot be built.
    """
    tree = PackedTree(project)
    problems = [
        problem
        for name in ("pyproject.toml", "uv.lock")
        if tree.is_file(name)
        for problem in _check_toml(project.folder / name, name)
    ]
    known = {problem.field for problem in problems}
    warnings: tuple[Problem, ...] = ()
    try:
        declaration = find_declaration(tree, script, tomllib.loads)
    except InvalidRequestError as exc:
        problems += [problem for problem in exc.problems if problem.field not in known]
        if tree.is_file("requirements.txt"):
            problems += _check_requirements(tree, "requirements.txt")
    else:
        problems += _problems_of(tree, declaration)
        problems += find_plain_credentials(tree, declaration, not_secrets)
        if _gets_plain_python(declaration, script) and (conda := find_conda_environment(project)):
            problems.append(conda)
        warnings = (*declaration.references.elsewhere, *_unread(project, declaration, script))
    if problems:
        raise InvalidRequestError(tuple(dict.fromkeys(problems)))
    return warnings


def declares_packages(project: Project, script: str) -> bool:
    """Whether the trainer's environment will have packages; the project has been checked."""
    return find_declaration(PackedTree(project), script, tomllib.loads).installs


class PackedTree:
    """The project as it will be unpacked on the instance."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._files = {
            member.path: member.target for member in project.members if not member.is_folder
        }
        # An empty folder is packed, but pip cannot use it.
        self._folders = {parent.as_posix() for path in self._files for parent in Path(path).parents}

    def is_file(self, path: str) -> bool:
        """Whether the file is packed; a link counts as its target."""
        return path in self._files and (self._project.folder / path).is_file()

    def is_folder(self, path: str) -> bool:
        """Whether any file of the folder is packed."""
        is_link = bool(self._files.get(path))
        return (
            not path
            or path in self._folders
            or (is_link and (self._project.folder / path).is_dir())
        )

    def read(self, path: str) -> str:
        """Return a file's text."""
        return (self._project.folder / path).read_text(encoding="utf-8-sig")

    def explain_missing(self, path: str) -> str:
        """Return why a path is not in the package, with the remedy."""
        return explain_missing(self._project, path)


# Files that declare dependencies but are not read, and what to add instead.
_UNREAD = {
    "Pipfile": "`pipenv requirements > requirements.txt`",
    "poetry.lock": "`poetry export -o requirements.txt`, or list them in [project]",
    "pdm.lock": "`pdm export -o requirements.txt`",
    "setup.py": "a requirements.txt with the line `-e .`",
    "setup.cfg": "a requirements.txt with the line `-e .`",
    "requirements*.txt": "a requirements.txt with the line `-r {}`",
    "requirements/*.txt": "a requirements.txt with the line `-r {}`",
}


def _gets_plain_python(declaration: Declaration, script: str) -> bool:
    """Whether a program that may be of Python gets no packages."""
    return not declaration.installs and (not script or script.endswith((".py", ".sh")))


def _unread(project: Project, declaration: Declaration, script: str) -> Iterator[Problem]:
    """Warn if the trainer gets plain Python although a file declares dependencies."""
    if not _gets_plain_python(declaration, script):
        return
    names = [member.path for member in project.members]
    found = (
        (name, remedy.format(name))
        for pattern, remedy in _UNREAD.items()
        for name in names
        if fnmatch(name, pattern) and name.count("/") == pattern.count("/")
    )
    for name, remedy in found:
        yield Problem(
            name,
            f"not read, so the program gets plain Python; if it needs packages, add {remedy}",
        )
        return
    if "pyproject.toml" in names and _computes_dependencies(project.folder / "pyproject.toml"):
        yield Problem(
            "pyproject.toml",
            "declares its dependencies where only its build backend reads them, so the program "
            "gets plain Python; add a requirements.txt with the line `-e .`",
        )


def _computes_dependencies(path: Path) -> bool:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    poetry = _table(document, "tool", "poetry", "dependencies")
    dynamic = _table(document, "project").get("dynamic")
    is_dynamic = isinstance(dynamic, list) and "dependencies" in dynamic
    return is_dynamic or bool(set(poetry) - {"python"})


def _table(document: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return a table of a TOML document, empty if there is none."""
    for name in names:
        inner = document.get(name)
        document = inner if isinstance(inner, Mapping) else {}
    return document


def _problems_of(tree: PackedTree, declaration: Declaration) -> Iterator[Problem]:
    references = declaration.references
    yield from references.problems
    yield from references.foreign
    for name in references.lists:
        yield from _check_requirements(tree, name)
    for text in declaration.requirements:
        if not _is_requirement(text):
            yield Problem(
                declaration.source, f"{text!r} is not a valid requirement (e.g. torch>=2.4)"
            )
    for rule in declaration.python:
        if not is_specifier(rule.specifier):
            yield Problem(
                rule.source,
                f"requires-python {rule.specifier!r} is not a valid specifier (e.g. >=3.11)",
            )
        elif not allows_any(rule.specifier):
            yield Problem(
                rule.source,
                f"requires-python {rule.specifier!r} excludes every Python version that instances "
                "offer: 3.10 or newer",
            )


_REQUIREMENT = re.compile(
    r"""[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*       # the name
        (\[[A-Za-z0-9._,\s-]*\])?\s*                      # extras
        (@\s*\S+(\s+;.*)?                                 # a URL, or version specifiers
        | \(?\s*((===|==|~=|!=|<=|>=|<|>)\s*[^\s,;()]+\s*,?\s*)*\)?\s*(;.*)?)""",
    re.VERBOSE,
)


def _is_requirement(text: str) -> bool:
    target = target_of(text)
    return bool(target.path or target.url or _REQUIREMENT.fullmatch(text.strip()))


def _check_requirements(tree: PackedTree, name: str) -> Iterator[Problem]:
    try:
        text = tree.read(name)
    except UnicodeDecodeError:
        yield Problem(name, "not UTF-8 text; save it as UTF-8")
        return
    for line in read_lines(text):
        if line.kind is Kind.REQUIREMENT and not _is_requirement(line.value):
            yield Problem(
                f"{name}:{line.number}",
                f"{line.value!r} is not a valid requirement (e.g. torch>=2.4)",
            )


def _check_toml(path: Path, name: str) -> Iterator[Problem]:
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        yield Problem(name, f"not valid TOML: {exc}")
