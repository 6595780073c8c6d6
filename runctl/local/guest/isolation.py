"""An instance's own paths: its state where EC2 has it, and a /tmp that no other instance sees.

They are bind mounts in a mount namespace of the instance, which disappears with its last process.
Nothing is created on the machine except below the instance's root: if a folder such as
`/var/lib/runctl` does not exist, its parent is covered, in that namespace only, by a file system in
memory that shows the parent's content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from runctl.local.guest import engine, namespaces, own_user

# As the agent knows them: the same in every instance, whatever its root.
STATE = Path("/var/lib/runctl")
HOME = Path("/var/lib/runctl-home")
_GRAFTS: Mapping[Path, str] = MappingProxyType({STATE: "var/lib/runctl", HOME: "root"})
_PRIVATE: Mapping[Path, str] = MappingProxyType({Path("/tmp"): "tmp", Path("/var/tmp"): "var/tmp"})  # noqa: S108
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is covered, not written to


def isolate(
    root: Path, shared: Iterable[Path], *, has_engine: bool = False, has_user: bool = False
) -> None:
    """Enter a namespace in which this process and its descendants have the instance's paths.

    The `shared` folders of the machine stay visible if a private folder would hide them; a folder
    that is shared as a whole is not private. With an engine, the folders of Docker are the
    instance's own. With a user of its own for programs, they reach the root and what is shared, and
    of other folders that are closed to them nothing is visible at all.
    """
    namespaces.enter()
    needed = [folder for folder in (root, *shared) if folder.exists()]
    outermost = _outermost(needed)
    for target, name in _PRIVATE.items():
        if target.is_dir() and not _is_shared(target.resolve(), outermost):
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
            _keep_visible(target.resolve(), folder, outermost)
            namespaces.bind(folder, target.resolve())
    stage = root / "run/graft"
    stage.mkdir(parents=True, exist_ok=True)
    grafts = {target.name: root / name for target, name in _GRAFTS.items()}
    if has_engine:
        grafts[engine.DATA.name] = root / engine.DATA.relative_to("/")
        engine.cover_run(stage)
    _graft(STATE.parent, grafts, stage)
    memory = _SHARED_MEMORY.resolve()
    if memory.is_dir() and not _is_shared(memory, outermost):
        namespaces.mount_tmpfs(stage, "mode=1777")
        _keep_visible(memory, stage, outermost)
        namespaces.move(stage, memory)
        if stage.is_mount():  # the root lies there, and was bound along with the mounts below it
            namespaces.detach(stage)
    if has_user:
        HOME.chmod(0o700)  # as that of root on EC2
        own_user.open_ways(needed, stage)
        own_user.introduce(root)
        # The agent removes what the user has left there, and all instances have the same user.
        namespaces.enter_ipc()
    stage.rmdir()
    # The root may lie below a folder that is covered now.
    os.chdir(root)


def _is_shared(target: Path, shared: Iterable[Path]) -> bool:
    return any(folder == target or folder in target.parents for folder in shared)


def _keep_visible(hidden: Path, cover: Path, shared: Iterable[Path]) -> None:
    """Show the shared folders below a folder in the one that will cover it."""
    for folder in shared:
        if hidden in folder.parents:
            namespaces.show_at(folder, cover / folder.relative_to(hidden))


def _outermost(folders: Iterable[Path]) -> list[Path]:
    known = {folder.resolve() for folder in folders}
    return [folder for folder in sorted(known) if not known.intersection(folder.parents)]


def _graft(parent: Path, grafts: Mapping[str, Path], stage: Path) -> None:
    """Make folders of the instance appear in a folder of the machine, next to its own content."""
    namespaces.mount_tmpfs(stage, "mode=755")
    for entry in os.scandir(parent):
        if entry.name not in grafts:
            namespaces.show(entry, stage / entry.name)
    for name, source in grafts.items():
        source.mkdir(parents=True, exist_ok=True)
        (stage / name).mkdir()
        namespaces.bind(source, stage / name)
    namespaces.move(stage, parent)
