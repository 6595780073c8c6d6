"""Failures of the trainer itself, and which of them are the same."""

import hashlib
import re

# What differs between two occurrences of the same fault: addresses, hashes, instants, counts,
# sizes, process ids, and temporary folders with random names.
_CHANGING = re.compile(
    r"""
    0x[0-9a-f]+                          # addresses
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b  # UUIDs
    | (?<![0-9a-z])(?=[a-f]*\d)[0-9a-f]{8,}(?![0-9a-z])  # hashes and ids
    | (?<=/tmp)\w+ | (?<=/tmp/)[\w.-]+    # temporary folders
    | [-+]?\d+(?:[.,:\d]*\d)?(?:e[-+]?\d+)?  # numbers, times and versions
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BLANK = re.compile(r"\s+")


def masked(words: str) -> str:
    """Return a message without the parts that differ from one occurrence to the next."""
    return _BLANK.sub(" ", _CHANGING.sub("#", words)).strip()


def fingerprint(exit_code: int | None, words: str) -> str:
    """Return a short text that failures with the same exit code and message have in common."""
    return hashlib.sha256(f"{exit_code} {masked(words)}".encode()).hexdigest()[:16]
