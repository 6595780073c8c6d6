"""The declaration of a trainer's dependencies, found in the unpacked project."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.prepare.sources import fingerprint_of
from runctl.model.declaration import Declaration, find_declaration
from runctl.model.errors import InvalidRequestError
from runctl.model.index_variables import with_indexes

if sys.version_info >= (3, 11):
    import tomllib
else:  # for Python 3.10 the vendored pip brings a reader, inside its wheel
    VENDOR = Path(__file__).resolve().parents[3] / "vendor"
    sys.path += [str(wheel) for wheel in VENDOR.glob("pip-*.whl")]
    from pip._vendor import tomli as tomllib


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The dependencies that a trainer declares, and the project that the declaration refers to.

    `fingerprint` digests the declaration with all that it refers to. It is computed from the
    project as it was unpacked, since a build may leave files in it.
    """

    project: Path
    declaration: Declaration
    fingerprint: bytes

    @property
    def source(self) -> str:
        """The file with the declaration, as a person would name it."""
        return self.declaration.source

    @property
    def installs(self) -> bool:
        """Whether there is anything to install."""
        return self.declaration.installs

    @property
    def is_offline(self) -> bool:
        """Whether the declaration asks for no index, so that nothing may be looked up in one."""
        lists = self.declaration.references.lists
        return any(b"--no-index" in (self.project / name).read_bytes() for name in lists)

    @property
    def folder(self) -> Path:
        """Where pip runs, so that relative paths mean what they mean to the user."""
        return self.project / self.declaration.references.folder


class ProjectTree:
    """The unpacked project."""

    def __init__(self, project: Path) -> None:
        self._project = project

    def is_file(self, path: str) -> bool:
        """Whether the project has this file."""
        return (self._project / path).is_file()

    def is_folder(self, path: str) -> bool:
        """Whether the project has this folder."""
        return (self._project / path).is_dir()

    def read(self, path: str) -> str:
        """Return a file's text."""
        return (self._project / path).read_text(encoding="utf-8-sig")

    def explain_missing(self, path: str) -> str:
        """Return the message that a path is not in the package."""
        return f"{path} is not in the package"


def find_dependencies(
    project: Path, script: str, *, indexes: Mapping[str, str] | None = None
) -> Declared:
    """Return the nearest declaration; InvalidRequestError if it names missing files.

    `indexes` are the variables of the request that name package indexes, with references.
    """
    declaration = find_declaration(ProjectTree(project), script, tomllib.loads)
    if problems := declaration.references.problems:
        raise InvalidRequestError(problems)
    return Declared(
        project=project,
        declaration=declaration,
        fingerprint=with_indexes(fingerprint_of(project, declaration), indexes or {}),
    )
