"""An instance's own paths: its state where EC2 has it, and a /tmp that no other instance sees.

They are bind mounts in a mount namespace of the instance, which is gone with its last process.
Nothing is created on the machine but below the instance's root: where a folder such as
`/var/lib/runctl` does not exist, a file system in memory that shows what its parent holds covers
the parent, in that namespace alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from runctl.local import namespaces

# As the agent knows them: the same in every instance, whatever its root is called.
STATE = Path("/var/lib/runctl")
HOME = Path("/var/lib/runctl-home")
_GRAFTS: Mapping[Path, str] = MappingProxyType({STATE: "var/lib/runctl", HOME: "root"})
_PRIVATE: Mapping[Path, str] = MappingProxyType({Path("/tmp"): "tmp", Path("/var/tmp"): "var/tmp"})  # noqa: S108
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is covered, not written to


def isolate(root: Path, shared: Iterable[Path]) -> None:
    """Enter a namespace in which this process and its descendants have the instance's paths.

    The `shared` folders of the machine stay visible where a private folder would hide them.
    """
    namespaces.enter()
    for target, name in _PRIVATE.items():
        if target.is_dir():
            _make_private(target.resolve(), root / name, shared)
    if _SHARED_MEMORY.is_dir():
        namespaces.mount_tmpfs(_SHARED_MEMORY, "mode=1777")
    _graft(STATE.parent, {target.name: root / name for target, name in _GRAFTS.items()}, root)
    # The root may lie below a folder that is covered now.
    os.chdir(root)


def _make_private(target: Path, folder: Path, shared: Iterable[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o1777)
    for one in _outermost(shared):
        if target in one.parents:
            inside = folder / one.relative_to(target)
            inside.mkdir(parents=True, exist_ok=True)
            namespaces.bind(one, inside)
    namespaces.bind(folder, target)


def _outermost(folders: Iterable[Path]) -> Iterator[Path]:
    known = {one.resolve() for one in folders if one.is_dir()}
    return (one for one in sorted(known) if not known.intersection(one.parents))


def _graft(parent: Path, grafts: Mapping[str, Path], root: Path) -> None:
    """Let folders of the instance appear in a folder of the machine, with what that holds."""
    stage = root / "run/graft"
    stage.mkdir(parents=True, exist_ok=True)
    namespaces.mount_tmpfs(stage, "mode=755")
    for entry in os.scandir(parent):
        if entry.name not in grafts:
            _show(entry, stage / entry.name)
    for name, source in grafts.items():
        source.mkdir(parents=True, exist_ok=True)
        (stage / name).mkdir()
        namespaces.bind(source, stage / name)
    namespaces.move(stage, parent)
    stage.rmdir()


def _show(entry: os.DirEntry[str], target: Path) -> None:
    if entry.is_symlink():
        target.symlink_to(Path(entry.path).readlink())
        return
    if entry.is_dir():
        target.mkdir()
    else:
        target.touch()
    namespaces.bind(Path(entry.path), target)
