"""The project's own part of an environment: its inputs, and the files that its build leaves."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from runctl.model.declaration import Declaration

BLOCK = 1024 * 1024
# The files that the build of an editable package reads. Its Python files are read at every start
# instead.
BUILD_NAMES = frozenset(
    {
        "pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in", "CMakeLists.txt", "Cargo.toml",
        "Cargo.lock", "meson.build", "meson_options.txt", "build.rs", "Makefile", "VERSION",
        "version.txt", "VERSION.txt",
    }
)  # fmt: skip
BUILD_SUFFIXES = frozenset(
    {
        ".pyx", ".pxd", ".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hpp", ".hh", ".rs",
        ".f", ".f90", ".f95", ".pyf", ".cmake", ".toml", ".i", ".swg",
    }
)  # fmt: skip
_VERSION_NAMES = frozenset({"__init__.py", "__about__.py", "_version.py", "version.py"})
_VERSION_LINE = re.compile(rb"^__version__\s*(?::[^=]*)?=.*$", re.MULTILINE)
_SKIPPED = frozenset({".git", "__pycache__", "build", "node_modules"})

# Where an environment keeps what belongs in the project, and which project it was built for.
BUILT = "lib/.runctl-built"
BUILT_FOR = "lib/.runctl-project"


def fingerprint_of(project: Path, declaration: Declaration) -> bytes:
    """Digest a declaration with everything in the project that it refers to."""
    digest = hashlib.sha256()
    references = declaration.references
    for text in declaration.requirements:
        digest.update(text.encode() + b"\0")
    for name in (*references.lists, *references.files):
        _add_file(digest, project, name)
    for folder in references.folders:
        for name in _files_below(project, folder):
            _add_file(digest, project, name)
    for folder in references.editables:
        _add_build_inputs(digest, project, folder)
    return digest.digest()


def _add_file(digest: "hashlib._Hash", project: Path, name: str) -> None:
    digest.update(f"{name}\0".encode())
    content = hashlib.sha256()
    with contextlib.suppress(OSError), (project / name).open("rb") as stream:
        while block := stream.read(BLOCK):
            content.update(block)
    digest.update(content.digest())


def _add_build_inputs(digest: "hashlib._Hash", project: Path, folder: str) -> None:
    """Digest what the build of an editable package depends on.

    The folders with Python files count by their names: build backends list them.
    """
    packages = set()
    for name in _files_below(project, folder):
        path = Path(name)
        is_list = path.suffix == ".txt" and "requirement" in path.name
        if path.name in BUILD_NAMES or path.suffix in BUILD_SUFFIXES or is_list:
            _add_file(digest, project, name)
        elif path.suffix == ".py":
            packages.add(path.parent.as_posix())
            if path.parent.as_posix() == (folder or "."):
                packages.add(name)  # a module at the top is listed by itself
            if path.name in _VERSION_NAMES:
                for line in _VERSION_LINE.findall((project / name).read_bytes()):
                    digest.update(line + b"\0")
    for package in sorted(packages):
        digest.update(f"{package}\0".encode())


def _files_below(project: Path, folder: str) -> Iterator[str]:
    """Yield the files below a folder of the project in a fixed order."""
    for parent, folders, files in os.walk(project / folder):
        folders[:] = sorted(set(folders) - _SKIPPED)
        for name in sorted(files):
            yield (Path(parent) / name).relative_to(project).as_posix()


def files_of_editables(project: Path, declaration: Declaration) -> frozenset[str]:
    """Return the files that editable packages have now."""
    folders = declaration.references.editables
    return frozenset(name for folder in folders for name in _files_below(project, folder))


def keep_built(target: Path, project: Path, built: frozenset[str]) -> None:
    """Keep in the environment what the build of editable packages left in the project.

    Compiled modules and generated version files lie next to the sources; on the next instance, and
    after a restart of the agent, the project is unpacked again without them.
    """
    (target / BUILT_FOR).write_text(str(project))
    for name in built:
        place = target / BUILT / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project / name, place, follow_symlinks=True)


def put_back(target: str, project: str) -> None:
    """Put the built files of an environment into the project, as the user that owns it."""
    kept = Path(target) / BUILT
    for place in sorted(kept.rglob("*")) if kept.is_dir() else ():
        name = Path(project) / place.relative_to(kept)
        if place.is_file() and not name.exists():
            name.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place, name)


def fit_to(target: Path, project: Path) -> None:
    """Make the paths of editable packages in an environment those of the project."""
    with contextlib.suppress(FileNotFoundError):
        before = (target / BUILT_FOR).read_text()
        if before != str(project):
            _move(target, before, str(project))


def _move(target: Path, before: str, after: str) -> None:
    for pattern in ("*.pth", "__editable__*.py", "*.egg-link", "*.dist-info/direct_url.json"):
        for path in target.glob(f"lib/python3*/site-packages/{pattern}"):
            if path.is_symlink():
                continue  # another run may have stored it, and it may lead anywhere
            content = path.read_bytes()
            moved = content.replace(before.encode(), after.encode())
            if moved != content:
                path.write_bytes(moved)
    for cache in target.glob("lib/python3*/site-packages/__pycache__/__editable__*"):
        cache.unlink()
    (target / BUILT_FOR).write_text(after)
