"""The package of a project: the same files give the same bytes, anywhere and at any time."""

import gzip
import hashlib
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from runctl.cli.project.left_out import note_of
from runctl.cli.project.scan import Member, Project
from runctl.model.errors import ProjectError
from runctl.model.identity import code_key
from runctl.model.left_out import PAX_KEY

# Not 0: some formats that trainers write, such as zip, have no time before 1980.
MTIME = 315_532_800


@dataclass(frozen=True, kw_only=True)
class Package:
    """An archive on disk, addressed by its content."""

    path: Path
    sha256: str
    size_bytes: int

    @property
    def key(self) -> str:
        """Its key in the deployment's bucket."""
        return code_key(self.sha256)


class _HashingWriter:
    """Writes bytes through to a stream and computes their digest."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size_bytes += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def pack_project(
    project: Project, into: Path, *, progress: Callable[[int], object] = lambda _: None
) -> Package:
    """Write the project's archive to the file `into`.

    `progress` is called with the number of bytes packed since its last call.
    """
    note = note_of(project)
    with into.open("wb") as raw:
        writer = _HashingWriter(raw)
        with (
            # Neither a name nor a time in the header, because either would change the bytes.
            gzip.GzipFile(
                filename="",
                mode="wb",
                compresslevel=6,
                fileobj=cast("IO[bytes]", writer),
                mtime=0,
            ) as squeezed,
            tarfile.open(
                mode="w|",
                fileobj=squeezed,
                format=tarfile.PAX_FORMAT,
                # Read by the agent only; tar unpacks nothing from it.
                pax_headers={PAX_KEY: note} if note else {},
            ) as archive,
        ):
            for member in project.members:
                _add(archive, project.folder, member)
                progress(member.size_bytes)
    return Package(path=into, sha256=writer.digest.hexdigest(), size_bytes=writer.size_bytes)


def _add(archive: tarfile.TarFile, folder: Path, member: Member) -> None:
    header = tarfile.TarInfo(member.path)
    header.mtime = MTIME
    header.mode = 0o755 if member.is_executable else 0o644
    if member.is_folder:
        header.type, header.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(header)
        return
    if member.target:
        header.type = tarfile.SYMTYPE
        header.linkname = member.target
        header.mode = 0o777
        archive.addfile(header)
        return
    try:
        with (folder / member.path).open("rb") as stream:
            header.size = os.fstat(stream.fileno()).st_size
            if header.size != member.size_bytes:
                raise _changed(member)
            archive.addfile(header, stream)
    except PermissionError as exc:
        raise ProjectError(
            f"{member.path}: permission denied; change its mode or exclude it in .runctlignore"
        ) from exc
    except FileNotFoundError as exc:
        raise _changed(member) from exc
    except OSError as exc:
        if exc.errno is None:  # raised by tarfile: the file is shorter than its size
            raise _changed(member) from exc
        raise


def _changed(member: Member) -> ProjectError:
    return ProjectError(
        f"{member.path}: changed while it was packed; run the command again, or exclude it in "
        ".runctlignore"
    )
