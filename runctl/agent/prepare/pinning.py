"""The installation of declared dependencies in the versions that the run installed before."""

import logging
import platform
from collections.abc import Sequence
from pathlib import Path

from runctl.agent.prepare.dependencies import Declared, ProjectTree
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.prepare.installer import Installer
from runctl.model.errors import RequestError
from runctl.model.pinned_requirements import has_repositories, pin_files
from runctl.model.requirement_lines import Kind, read_lines
from runctl.model.versions import Versions, pin_repositories

logger = logging.getLogger(__name__)


def install(
    installer: Installer,
    target: Path,
    declared: Declared,
    pinned: Versions | None,
    *,
    scratch: Path,
) -> None:
    """Fill an environment; RequestError if the pinned versions cannot be installed here."""
    if declared.declaration.lock:  # it pins everything by itself
        _install_lock(installer, target, declared, scratch)
        return
    arguments = _arguments(declared, pinned, scratch)
    if not arguments:
        return
    try:
        _install(installer, target, arguments, declared)
        if pinned is not None:
            _correct(installer, target, declared, pinned)
    except RequestError as exc:
        if pinned is None or "cannot be reached" in str(exc):
            raise
        raise RequestError(
            f"the versions that attempt {pinned.attempt} installed on {pinned.platform} with "
            f"Python {pinned.python} cannot be installed on {platform.machine()} with Python "
            f"{platform.python_version()}; choose instance types of the same kind, or start a "
            f"new run: {exc}"
        ) from exc


def installed_as_pinned(environment: Path, pinned: Versions) -> bool:
    """Whether no version in an environment differs from the pinned one."""
    return not pinned.differing(installed_versions(environment, attempt=0))


def _install(
    installer: Installer, target: Path, arguments: Sequence[str], declared: Declared
) -> None:
    installer.install(
        target,
        arguments,
        declared.source,
        cwd=declared.folder,
        is_offline=declared.is_offline,
    )


def _arguments(declared: Declared, pinned: Versions | None, scratch: Path) -> list[str]:
    declaration = declared.declaration
    commits = {} if pinned is None else pinned.commits()
    constraints = [] if pinned is None else pinned.constraints()
    arguments: list[str] = []
    if declaration.file:
        file = declared.project / declaration.file
        tree = ProjectTree(declared.project)
        if has_repositories(tree, declaration.references.lists):
            lines, more = pin_files(tree, declaration.file, commits, top=str(declared.project))
            file = _write(scratch / "requirements.txt", lines)
            constraints += more
        arguments += ["-r", str(file)]
    else:
        arguments += [pin_repositories(text, commits) for text in declaration.requirements]
    if arguments and constraints:
        arguments += ["-c", str(_write(scratch / "pinned.txt", constraints))]
    return arguments


def _correct(installer: Installer, target: Path, declared: Declared, pinned: Versions) -> None:
    """Replace what a dependency took from a branch that has moved; refuse any other difference."""
    differing = pinned.differing(installed_versions(target, attempt=0))
    for ours, theirs in differing:
        if ours.commit and theirs.commit:
            logger.info("%s is pinned to the commit %s", ours.name, ours.commit)
            wanted = f"{ours.name} @ git+{ours.url}@{ours.commit}"
            arguments = ["--no-deps", "--force-reinstall", wanted]
            _install(installer, target, arguments, declared)
    for ours, theirs in pinned.differing(installed_versions(target, attempt=0)):
        raise RequestError(f"{ours.url or ours.name} was {ours}, and is now {theirs}")


def _install_lock(installer: Installer, target: Path, declared: Declared, scratch: Path) -> None:
    """Install what uv exports: first what has hashes, then what cannot have any.

    Once one requirement has a hash, pip demands hashes for all of them, and neither a folder nor a
    repository has one.
    """
    lock = declared.project / declared.declaration.lock
    exported = installer.export(lock.parent, declared.source, scratch / "uv-requirements.txt")
    options = list(declared.declaration.options)
    hashed: list[str] = []
    others: list[str] = []
    for line in read_lines(exported.read_text(encoding="utf-8")):
        if line.kind not in {Kind.REQUIREMENT, Kind.EDITABLE}:
            options.append(line.text)
        else:
            (hashed if "--hash" in line.text else others).append(line.text)
    for name, lines in (("hashed.txt", hashed), ("others.txt", others)):
        if lines:
            file = _write(scratch / name, [*options, *lines])
            arguments = ["--no-deps", "-r", str(file)]
            installer.install(target, arguments, declared.source, cwd=lock.parent)


def _write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
