"""Recognition of a file's format by its first bytes, and that format's verdict."""

import struct
import zlib
from collections.abc import Callable

from runctl.checkpoint.formats.containers import gzip, is_tar, tar, xz, zip_archive
from runctl.checkpoint.formats.source import BudgetSpentError, Source, Verdict
from runctl.checkpoint.formats.tables import arrow, json_text, parquet, sqlite
from runctl.checkpoint.formats.tensors import hdf5, npy, pickle, safetensors

Check = Callable[[Source], Verdict | None]

MAGIC: tuple[tuple[bytes, Check], ...] = (
    (b"PK\x03\x04", zip_archive),
    (b"PK\x05\x06", zip_archive),
    (b"\x89HDF\r\n\x1a\n", hdf5),
    (b"\x93NUMPY", npy),
    (b"SQLite format 3\0", sqlite),
    (b"PAR1", parquet),
    (b"ARROW1\0\0", arrow),
    (b"\x1f\x8b\x08", gzip),
    (b"\xfd7zXZ\0", xz),
    (b"\x80\x02", pickle),
    (b"\x80\x03", pickle),
    (b"\x80\x04", pickle),
    (b"\x80\x05", pickle),
)
# Exceptions from parsing content that only claims to have the format.
OF_BAD_CONTENT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# Records of torch.distributed.checkpoint: archives and raw tensors one after another. Its
# `.metadata` lists the files of such a save.
WITHOUT_VERDICT = (".distcp",)


def judge(source: Source) -> Verdict | None:
    """Return what the file's format says, or None if nothing is known about it.

    A file is judged by its content. Its name only helps if a format has no magic number, so a file
    whose content does not match its name has no verdict. Whatever the file claims, nothing is
    raised, and no more is read than Source allows.
    """
    try:
        check = _check_of(source)
        return None if check is None else check(source)
    except (BudgetSpentError, *OF_BAD_CONTENT):
        return None


def _check_of(source: Source) -> Check | None:
    if not source.head or source.name.endswith(WITHOUT_VERDICT):
        return None
    for magic, check in MAGIC:
        if source.head.startswith(magic):
            return check
    if is_tar(source):
        return tar
    if source.name.endswith(".json") and source.head.lstrip()[:1] in {b"{", b"["}:
        return json_text
    return safetensors if source.head[8:9] == b"{" else None
