"""Formats of tables and records: Parquet, Arrow, SQLite, JSON."""

import json

from runctl.checkpoint.formats.source import READ_BYTES, Source, Verdict

MAX_PAGE_BYTES = 65536


def parquet(source: Source) -> Verdict:
    """A Parquet file ends with its footer, the footer's length and the magic number."""
    tail = source.tail(8)
    if source.size < 12 or tail[4:] not in {b"PAR1", b"PARE"}:
        return Verdict("Parquet", "its footer is missing")
    if int.from_bytes(tail[:4], "little") + 12 > source.size:
        return Verdict("Parquet", "its footer does not fit into it")
    return Verdict("Parquet", is_proven=True)


def arrow(source: Source) -> Verdict:
    """An Arrow file (Feather) ends with the magic number that it begins with."""
    if source.size < 16 or source.tail(6) != b"ARROW1":
        return Verdict("Arrow", "its footer is missing")
    return Verdict("Arrow", is_proven=True)


def sqlite(source: Source) -> Verdict:
    """The header says how many pages of which size there are; a journal beside it is fine."""
    if len(source.head) < 100:
        return Verdict("SQLite", "its header is cut off")
    page = int.from_bytes(source.head[16:18], "big")
    page = MAX_PAGE_BYTES if page == 1 else page
    pages = int.from_bytes(source.head[28:32], "big")
    # Versions before 3.7 do not maintain the number of pages, and leave these two different.
    is_valid = source.head[24:28] == source.head[92:96]
    if is_valid and source.size < page * pages:
        return Verdict("SQLite", f"{pages} pages of {page} bytes do not fit into it")
    return Verdict("SQLite", is_proven=is_valid and pages > 0)


def json_text(source: Source) -> Verdict | None:
    """A small document is parsed; a large one must end with a bracket."""
    if source.size > READ_BYTES - len(source.head):
        if source.tail(256).rstrip()[-1:] not in {b"}", b"]"}:
            return Verdict("JSON", "it does not end with a bracket", is_certain=False)
        return Verdict("JSON")
    text = source.read(0, source.size).decode("utf-8", errors="replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        # Anything else than an early end may be a dialect, or a document per line.
        is_cut_off = exc.pos >= len(text) or exc.msg.startswith("Unterminated string")
        return Verdict("JSON", "it ends too early", is_certain=False) if is_cut_off else None
    return Verdict("JSON", is_proven=True)
