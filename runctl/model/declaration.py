"""The declaration of the dependencies of a trainer, found in its project."""

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.references import (
    References,
    Tree,
    listed_references,
    lock_references,
    requirements_references,
)
from runctl.model.uv_sources import apply_sources, index_options

SCRIPT_BLOCK = re.compile(
    r"(?m)^# /// script[ \t]*\r?$\s(?P<content>(^#(| .*)$\s)+)^# ///[ \t]*\r?$"
)

Loads = Callable[[str], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PythonRule:
    """A `requires-python`, and the file that contains it."""

    source: str
    specifier: str


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The dependencies that a trainer declares; paths are relative to the project's top.

    `source` is the file with the declaration, as a person would name it. `requirements` are those
    for pip; `file` is set where pip should read a requirements file itself, `lock` where uv should
    read its lock, whose packages need pip's `options` for their indexes.
    """

    source: str = "no dependency file"
    requirements: tuple[str, ...] = ()
    file: str = ""
    lock: str = ""
    options: tuple[str, ...] = ()
    python: tuple[PythonRule, ...] = ()
    references: References = field(default_factory=References)

    @property
    def installs(self) -> bool:
        """Whether there is anything to install."""
        return bool(self.requirements or self.file or self.lock)


def find_declaration(tree: Tree, script: str, loads: Loads) -> Declaration:
    """Return the nearest declaration: in the script, then next to it, then in each folder above.

    In one folder uv.lock comes before requirements.txt, and that before pyproject.toml. A
    `requires-python` counts wherever it is. Raises InvalidRequestError for a file that cannot be
    read.
    """
    folders = _folders_above(script)
    rules = _python_rules(tree, folders, loads)
    block = _script_block(tree, script, loads) if script.endswith(".py") else None
    if block is not None:
        rules = (*_rule(f"the script metadata of {script}", block), *rules)
        found = _listed(tree, folders[0], script, block, f"the script metadata of {script}")
        return replace(found, python=rules)
    for folder in folders:
        if declaration := _of_folder(tree, folder, loads):
            return replace(declaration, python=rules)
    return Declaration(python=rules)


def _folders_above(script: str) -> list[str]:
    """Return the script's folder and those above it, up to the project's top."""
    folders = [posixpath.dirname(script)]
    while folders[-1]:
        folders.append(posixpath.dirname(folders[-1]))
    return folders


def _python_rules(tree: Tree, folders: list[str], loads: Loads) -> tuple[PythonRule, ...]:
    """Return the rule of the nearest pyproject.toml that has one."""
    for folder in folders:
        name = posixpath.join(folder, "pyproject.toml")
        if tree.is_file(name):
            project = _read_toml(tree, name, loads).get("project")
            if isinstance(project, dict) and (rules := _rule(name, project)):
                return rules
    return ()


def _rule(source: str, section: Mapping[str, Any]) -> tuple[PythonRule, ...]:
    specifier = section.get("requires-python", "")
    if not isinstance(specifier, str):
        raise _bad(source, f"requires-python is {specifier!r}, not a string such as '>=3.11'")
    return (PythonRule(source=source, specifier=specifier),) if specifier.strip() else ()


def _script_block(tree: Tree, script: str, loads: Loads) -> dict[str, Any] | None:
    """Return the inline metadata of a script (PEP 723), None when it has none."""
    try:
        text = tree.read(script)
    except UnicodeDecodeError:
        return None
    found = list(SCRIPT_BLOCK.finditer(text))
    if not found:
        return None
    if len(found) > 1:
        raise _bad(script, f"has {len(found)} `# /// script` blocks; leave one")
    lines = found[0]["content"].splitlines()
    content = "".join(f"{line[2:] if line.startswith('# ') else line[1:]}\n" for line in lines)
    try:
        return loads(content)
    except ValueError as exc:
        raise _bad(script, f"its `# /// script` block is not valid TOML: {exc}") from exc


def _of_folder(tree: Tree, folder: str, loads: Loads) -> Declaration | None:
    lock, plain, described = (
        posixpath.join(folder, name) for name in ("uv.lock", "requirements.txt", "pyproject.toml")
    )
    if tree.is_file(lock) and tree.is_file(described):
        packages = _read_toml(tree, lock, loads).get("package")
        references = lock_references(tree, lock, packages)
        files = (lock, described, *references.files)
        uv = _uv_table(_read_toml(tree, described, loads))
        return Declaration(
            source=lock,
            lock=lock,
            options=index_options(packages, uv.get("index")),
            references=replace(references, files=files),
        )
    if tree.is_file(plain):
        references = requirements_references(tree, plain)
        return Declaration(source=plain, file=plain, references=references)
    if tree.is_file(described):
        document = _read_toml(tree, described, loads)
        section = document.get("project")
        if isinstance(section, dict) and "dependencies" in section:
            return _listed(tree, folder, described, {**document, **section}, described)
    return None


def _listed(
    tree: Tree, folder: str, name: str, section: Mapping[str, Any], source: str
) -> Declaration:
    """Return a declaration whose requirements a TOML document lists."""
    listed = section.get("dependencies", [])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise _bad(name, f"dependencies are {listed!r}, not a list of strings such as 'torch>=2.4'")
    requirements, refused = apply_sources(listed, _uv_table(section).get("sources"))
    references = listed_references(tree, folder, name, requirements)
    problems = tuple(
        Problem(
            name,
            f"[tool.uv.sources] gives {source} a source that only uv supports; run `uv lock` "
            f"next to a pyproject.toml, or write the source into the dependency, such as "
            f"'{source} @ URL'",
        )
        for source in refused
    )
    return Declaration(
        source=source,
        requirements=requirements,
        references=replace(references, problems=(*references.problems, *problems)),
    )


def _uv_table(document: Mapping[str, Any]) -> Mapping[str, Any]:
    tool = document.get("tool")
    uv = tool.get("uv") if isinstance(tool, Mapping) else None
    return uv if isinstance(uv, Mapping) else {}


def _read_toml(tree: Tree, name: str, loads: Loads) -> dict[str, Any]:
    try:
        return loads(tree.read(name))
    except ValueError as exc:  # TOML's own error and a failure to decode are both
        raise _bad(name, f"is not valid TOML: {exc}") from exc


def _bad(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError((Problem(name, message),))
