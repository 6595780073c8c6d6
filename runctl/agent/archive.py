"""Archives, unpacked so that nothing can land outside the folder."""

import tarfile
from pathlib import Path

from runctl.agent.disk import says_full
from runctl.model.errors import RequestError


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz into `folder`; RequestError when it is damaged or would escape.

    A full disk is an OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:*") as content:
            # The filter refuses absolute names, `..`, links that lead outside, and devices.
            content.extractall(folder, filter="data")
    except tarfile.FilterError as exc:
        raise RequestError(f"the archive would write outside its folder: {exc}") from exc
    except OSError as exc:
        if says_full(exc):  # nothing is wrong with the archive
            raise
        raise RequestError(f"the archive cannot be unpacked: {exc}") from exc
    except (tarfile.TarError, EOFError, ValueError) as exc:
        raise RequestError(f"the archive cannot be unpacked: {exc}") from exc


def pack(archive: Path, folder: Path, names: list[str]) -> None:
    """Pack some of a folder's entries, without bytecode, into a .tar.gz."""

    def without_bytecode(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if member.name.endswith("/__pycache__") else member

    with tarfile.open(archive, "w:gz", compresslevel=1) as content:
        for name in names:
            content.add(folder / name, arcname=name, filter=without_bytecode)
