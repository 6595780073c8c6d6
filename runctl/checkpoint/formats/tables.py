"""Formats of tables and records: Parquet, Arrow, SQLite, JSON."""

import json

from runctl.checkpoint.formats.source import MAX_READ_BYTES, Source, Verdict

MAX_PAGE_BYTES = 65536


def parquet(source: Source) -> Verdict:
    """Check a Parquet file's end: the footer, its length and the magic number."""
    tail = source.tail(8)
    if source.size < 12 or tail[4:] not in {b"PAR1", b"PARE"}:
        return Verdict("Parquet", "its footer is missing")
    if int.from_bytes(tail[:4], "little") + 12 > source.size:
        return Verdict("Parquet", "its footer is longer than the file")
    return Verdict("Parquet", is_proven=True)


def arrow(source: Source) -> Verdict:
    """Check the end of an Arrow file (Feather), which repeats the magic number of its beginning."""
    if source.size < 16 or source.tail(6) != b"ARROW1":
        return Verdict("Arrow", "its footer is missing")
    return Verdict("Arrow", is_proven=True)


def sqlite(source: Source) -> Verdict:
    """Compare the size with the header's page count and page size; a journal may exist as well."""
    if len(source.head) < 100:
        return Verdict("SQLite", "its header is cut off")
    page = int.from_bytes(source.head[16:18], "big")
    page = MAX_PAGE_BYTES if page == 1 else page
    pages = int.from_bytes(source.head[28:32], "big")
    # Versions before 3.7 do not maintain the number of pages, and leave these two different.
    is_valid = source.head[24:28] == source.head[92:96]
    if is_valid and source.size < page * pages:
        return Verdict("SQLite", f"{pages} pages of {page} bytes are more than the file holds")
    return Verdict("SQLite", is_proven=is_valid and pages > 0)


def json_text(source: Source) -> Verdict | None:
    """Parse a small document; a large one must end with a bracket."""
    if source.size > MAX_READ_BYTES - len(source.head):
        if source.tail(256).rstrip()[-1:] not in {b"}", b"]"}:
            return Verdict("JSON", "it does not end with a bracket", is_certain=False)
        return Verdict("JSON")
    text = source.read(0, source.size).decode("utf-8", errors="replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        # Any error except an early end may come from a dialect, or from one document per line.
        is_cut_off = exc.pos >= len(text) or exc.msg.startswith("Unterminated string")
        return Verdict("JSON", "it ends too early", is_certain=False) if is_cut_off else None
    return Verdict("JSON", is_proven=True)
