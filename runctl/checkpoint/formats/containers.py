"""Archives and compressed files: zip (.pt, .npz, .keras, …), tar, gzip, xz."""

import struct
import zlib

from runctl.checkpoint.formats.source import MAX_READ_BYTES, Source, Verdict

END_OF_ZIP, END_OF_ZIP64, LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
END_BYTES, END64_BYTES, LOCATOR_BYTES = 22, 56, 20
USUAL_TAIL = 1024
BLOCK = 512
# Deflate compresses no better than this; a larger claim of unpacked bytes is impossible.
BEST_RATIO = 1032
MAX_UNPACKED_BYTES = 16 * 1024 * 1024


def zip_archive(source: Source) -> Verdict:
    """Check the record at the end of a zip file, which says where the directory lies."""
    tail = source.tail(USUAL_TAIL)
    at = tail.rfind(END_OF_ZIP)
    if at < 0 and source.size > USUAL_TAIL:
        tail = source.tail(min(source.size, source.left - 4 * END_BYTES))  # a comment follows
        at = tail.rfind(END_OF_ZIP)
    end = tail[at : at + END_BYTES]
    if at < 0 or len(end) < END_BYTES:
        return Verdict("zip", "its central directory, at the end, is missing")
    position = source.size - len(tail) + at
    entries, size, offset, comment = struct.unpack("<10xHIIH", end)
    if position + END_BYTES + comment > source.size:
        return Verdict("zip", "its end is cut off")
    if 0xFFFFFFFF in {size, offset} or entries == 0xFFFF:
        found = _zip64(source, position)
        if found is None:
            return Verdict("zip", "the record of its large directory is missing")
        position, entries, size, offset = found
    if offset + size > position:
        return Verdict("zip", f"its directory of {size} bytes at {offset} extends beyond the file")
    # Data before the archive, such as other archives, shifts all offsets; and torch writes the
    # records of a large archive even for a small one.
    starts = (offset, position - size, position - LOCATOR_BYTES - END64_BYTES - size)
    if entries and all(source.read(at, 4) != b"PK\x01\x02" for at in starts):
        return Verdict("zip", "its directory is not where its end says")
    return Verdict("zip", is_proven=True)


def _zip64(source: Source, position: int) -> tuple[int, int, int, int] | None:
    """Return the end of a large archive's directory, its number of entries, size and offset."""
    locator = source.read(position - LOCATOR_BYTES, LOCATOR_BYTES)
    if not locator.startswith(LOCATOR):
        return None
    # The record usually comes directly before the locator, even if data precedes the archive.
    for start in (position - LOCATOR_BYTES - END64_BYTES, struct.unpack("<8xQ4x", locator)[0]):
        record = source.read(start, END64_BYTES)
        if len(record) == END64_BYTES and record.startswith(END_OF_ZIP64):
            entries, size, offset = struct.unpack("<32xQQQ", record)
            return start, entries, size, offset
    return None


def is_tar(source: Source) -> bool:
    """Return whether the first block is a tar header."""
    return source.head[257:262] == b"ustar"


def tar(source: Source) -> Verdict:
    """Check the two blocks of zeros at the end of a tar file; some writers omit them."""
    if source.tail(2 * BLOCK).strip(b"\0") or source.size < 3 * BLOCK:
        return Verdict("tar", "the two empty blocks at its end are missing", is_certain=False)
    return Verdict("tar")


def gzip(source: Source) -> Verdict | None:
    """Unpack a small gzip file; of a large one, check only whether its length is possible."""
    if source.size > MAX_READ_BYTES - len(source.head):
        unpacked = int.from_bytes(source.tail(4), "little")
        if unpacked > BEST_RATIO * source.size:
            return Verdict("gzip", "its length when unpacked is impossible")
        return Verdict("gzip")
    packed = source.read(0, source.size)
    unpacked = 0
    while packed.strip(b"\0"):
        reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            while not reader.eof and packed:
                unpacked += len(reader.decompress(packed, MAX_UNPACKED_BYTES))
                packed = reader.unconsumed_tail
                if unpacked > MAX_UNPACKED_BYTES:
                    return None
        except zlib.error:
            return None  # not gzip after all
        if not reader.eof:
            return Verdict("gzip", "it ends in the middle of its content")
        packed = reader.unused_data
    return Verdict("gzip", is_proven=True)


def xz(source: Source) -> Verdict:
    """Check the footer of an xz stream, which may be padded."""
    if source.size < 32 or not source.tail(64).rstrip(b"\0").endswith(b"YZ"):
        return Verdict("xz", "its footer is missing")
    return Verdict("xz", is_proven=True)
