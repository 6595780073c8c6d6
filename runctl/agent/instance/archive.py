"""Archives, unpacked within limits and with nothing outside their folder."""

import contextlib
import gzip
import os
import posixpath
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from runctl.agent.instance.disk import says_full
from runctl.beneath.folder import Folder, Found, walk
from runctl.model.errors import RequestError
from runctl.model.manifest_rules import MAX_DEPTH, MAX_PATH_BYTES

# Python 3.10 before 3.10.12 and 3.11 before 3.11.4; the backport has the same names, without types.
if not TYPE_CHECKING and not hasattr(tarfile, "data_filter"):
    from backports import tarfile

CACHE = "__pycache__"
# tarfile reads a header that extends another one at once, into memory; file contents it reads in
# small blocks. The list of what a package left out is the longest such header of ours.
MAX_HEADER_BYTES = 8 * 1024 * 1024
# The errors that tarfile raises for content that only claims to be an archive.
DAMAGE = (tarfile.TarError, ArithmeticError, EOFError, LookupError, RecursionError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of an archive; `remedy` is the advice for an archive that exceeds them."""

    field: str
    members: int
    unpacked_bytes: int
    packed_bytes: int
    remedy: str

    def check_packed(self, size_bytes: int) -> None:
        """Raise RequestError when an archive is too large to be fetched."""
        if size_bytes > self.packed_bytes:
            raise self.exceeded(f"{size_bytes:,} bytes", f"{self.packed_bytes:,}")

    def exceeded(self, what: str, limit: str) -> RequestError:
        """Return the error about too much of something."""
        return RequestError(
            f"{self.field}: the archive has {what}, more than the limit of {limit}; {self.remedy}"
        )


# `runctl aws train` packs at most 20,000 files of 5 GB; others may make archives themselves.
CODE = Limits(
    field="code",
    members=200_000,
    unpacked_bytes=20_000_000_000,
    packed_bytes=10_000_000_000,
    remedy="keep data in a bucket, and let the program read it from there",
)


def unpack(archive: Path, folder: Path, limits: Limits = CODE) -> None:
    """Unpack a .tar.gz into an empty folder.

    Raises RequestError if the archive is damaged, would write outside the folder or exceeds
    `limits`; what was unpacked until then is left. Raises OSError if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _opened(archive, limits) as content:
            # The filter refuses absolute names, `..`, links that lead outside, and devices.
            content.extractall(folder, members=_checked(content, limits), filter="data")
    except tarfile.FilterError as exc:
        raise RequestError(f"the archive would write outside its folder: {exc}") from exc
    except (*DAMAGE, zlib.error) as exc:
        raise RequestError(f"the archive cannot be unpacked: {exc}") from exc
    except OSError as exc:
        if says_full(exc):  # nothing is wrong with the archive
            raise
        raise RequestError(f"the archive cannot be unpacked: {exc}") from exc


def read_header(archive: Path, name: str) -> str:
    """Return a global header of an archive, empty if it has none or cannot be read."""
    try:
        with _opened(archive, CODE) as content:
            return content.pax_headers.get(name, "")
    except (*DAMAGE, zlib.error, OSError, RequestError):
        return ""


def pack(archive: Path, folder: Path) -> None:
    """Pack a folder that somebody else writes to, without bytecode, into a .tar.gz.

    Links are packed as links, and what is neither file, folder nor link is left out.
    """
    names: dict[tuple[int, int], str] = {}
    with tarfile.open(archive, "w:gz", compresslevel=1) as content, Folder.opened(folder) as opened:
        for found in walk(opened):
            if CACHE not in found.path.split("/"):
                _pack_one(content, opened, found, names)


def _pack_one(
    content: tarfile.TarFile, folder: Folder, found: Found, names: dict[tuple[int, int], str]
) -> None:
    member = tarfile.TarInfo(found.path)
    member.mode, member.mtime = stat.S_IMODE(found.info.st_mode), found.info.st_mtime
    if found.is_folder or found.is_link or found.identity in names:
        member.type = tarfile.DIRTYPE
        if found.is_link:
            try:
                member.type, member.linkname = tarfile.SYMTYPE, found.target()
            except FileNotFoundError:
                return
        elif not found.is_folder:
            member.type, member.linkname = tarfile.LNKTYPE, names[found.identity]
        content.addfile(member)
    elif found.is_file:
        try:
            descriptor = folder.open(found.path)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "rb") as stream:
            info = os.fstat(descriptor)
            member.size = info.st_size
            content.addfile(member, stream)
            names[info.st_dev, info.st_ino] = found.path


class _Bounded:
    """The stream that tarfile reads. No header fills the memory; no skipped content takes hours."""

    def __init__(self, stream: gzip.GzipFile, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        # The headers take space in addition to the contents.
        self._end = limits.unpacked_bytes + limits.members * tarfile.RECORDSIZE
        self.tell: Callable[[], int] = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise self._limits.exceeded(f"a header of {size:,} bytes", f"{MAX_HEADER_BYTES:,}")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > self._end:
            raise self._limits.exceeded(f"{position:,} bytes", f"{self._end:,}")
        return self._stream.seek(position)


@contextlib.contextmanager
def _opened(archive: Path, limits: Limits) -> Iterator[tarfile.TarFile]:
    with (
        archive.open("rb") as packed,
        gzip.GzipFile(fileobj=packed) as stream,
        tarfile.open(fileobj=cast("IO[bytes]", _Bounded(stream, limits)), mode="r:") as content,
    ):
        yield content


def _checked(content: tarfile.TarFile, limits: Limits) -> Iterator[tarfile.TarInfo]:
    """Yield the members, each once it is known to be within the limits and below no link.

    The filter refuses the rest. It looks at the folder as it is at that moment, and the filters of
    older Python versions could be misled by links to links.
    """
    kinds: dict[str, str] = {}
    unpacked = 0
    for count, member in enumerate(content, 1):
        unpacked += member.size if member.isreg() else 0
        if count > limits.members:
            raise limits.exceeded(f"more than {limits.members:,} members", f"{limits.members:,}")
        if unpacked > limits.unpacked_bytes:
            raise limits.exceeded(
                f"{unpacked:,} bytes of files or more", f"{limits.unpacked_bytes:,}"
            )
        path = _path_of(member.name)
        kind = "dir" if member.isdir() else "link" if member.issym() else "file"
        if kinds.get(path, kind) != kind or (path in kinds and kind != "dir"):
            raise ValueError(f"{path!a} occurs twice")
        if member.islnk() and kinds.get(_path_of(member.linkname)) != "file":
            raise ValueError(f"{path!a} is a hard link to something other than an earlier file")
        kinds[path] = kind
        folder = posixpath.dirname(path)
        while folder:
            if kinds.setdefault(folder, "dir") != "dir":
                raise ValueError(f"{path!a} lies below {folder!a}, which is not a folder")
            folder = posixpath.dirname(folder)
        yield member


def _path_of(name: str) -> str:
    """Return the path of a member below the folder; ValueError if it cannot have one."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts or "\0" in name:
        raise ValueError(f"{name[:100]!a} may lead outside the folder")
    if len(parts) > MAX_DEPTH or len(name) > MAX_PATH_BYTES:
        raise ValueError(f"{name[:100]!a}… is longer or deeper than a path can be")
    return "/".join(parts)
