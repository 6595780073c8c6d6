"""The user of an instance's programs, whom the machine does not know, and its way to their files.

On EC2 the bootstrap creates it. Here the machine's list of users stays as it is: the instance has a
list of its own. What the instance needs may lie in folders that are closed to other users, such as
the home folder of root. Those are covered, in the instance's mount namespace only, by file systems
in memory that show nothing but what is needed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from runctl.local.guest import namespaces

# As the bootstrap creates it.
NAME, UID = "runctl-trainer", 58113
_HOME, _SHELL = "/var/lib/runctl/home", "/usr/sbin/nologin"
_USERS, _GROUPS = Path("/etc/passwd"), Path("/etc/group")
_GPU_GROUPS = ("video", "render")


def introduce(root: Path) -> None:
    """Let this mount namespace know the user."""
    entry = f"{NAME}:x:{UID}:{UID}::{_HOME}:{_SHELL}"
    _replace(_USERS, root, [*_without_it(_lines_of(_USERS)), entry])
    groups = [_with_member(line) for line in _without_it(_lines_of(_GROUPS))]
    _replace(_GROUPS, root, [*groups, f"{NAME}:x:{UID}:"])


def _lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _without_it(lines: Iterable[str]) -> list[str]:
    """Leave out whatever has the user's name or number on the machine."""
    return [line for line in lines if not {NAME, str(UID)} & {*line.split(":")[0:3:2]}]


def _with_member(line: str) -> str:
    if line.partition(":")[0] not in _GPU_GROUPS:
        return line
    return f"{line}{'' if line.endswith(':') else ','}{NAME}"


def _replace(path: Path, root: Path, lines: Iterable[str]) -> None:
    own = root / path.relative_to("/")
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("".join(f"{line}\n" for line in lines))
    own.chmod(0o644)
    namespaces.bind(own, path)


def open_ways(needed: Iterable[Path], stage: Path) -> None:
    """Let every user pass through the folders above what is needed, and see nothing else there.

    `stage` is an empty folder.
    """
    paths = [path.resolve() for path in needed]
    while (closed := _first_closed(paths)) is not None:
        namespaces.mount_tmpfs(stage, "mode=711")
        below = [path for path in paths if closed in path.parents]
        for path in below:
            if not set(path.parents).intersection(below):
                namespaces.show_at(path, stage / path.relative_to(closed))
        namespaces.move(stage, closed)
        if stage.is_mount():  # what was shown has it, and was bound along with the mounts below it
            namespaces.detach(stage)


def _first_closed(paths: Iterable[Path]) -> Path | None:
    """Return the outermost folder above one of the paths that other users may not enter."""
    for path in paths:
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & stat.S_IXOTH and parent != Path("/"):
                return parent
    return None
